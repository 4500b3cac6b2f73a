"""What teaches the phone classifier, and shows that it can serve as an ear."""

import torch
import torch.nn.functional as F
from torch import Tensor

from data.phones import PhoneBatch
from distill.classifier import PhoneClassifier
from distill.losses.perceptual import perceptual_distance
from wavenet.training.objective import LossReport, Objective

NOISE_DB = (40, 20, 0)  # signal-to-noise ratios of the noisy copies that validation listens to


class ClassifierObjective(Objective):
    """-ln p(phone), averaged over the frames of a batch but the last `lookahead`.

    Args:
        model: the classifier.
        majority: the class that is commonest in training.
    """

    model: PhoneClassifier

    def __init__(self, model: PhoneClassifier, majority: int) -> None:
        super().__init__()
        self.model = model
        self.majority = majority

    def forward(self, batch: PhoneBatch, step: int) -> LossReport:
        logits, phones = self._classify(batch)
        loss = F.cross_entropy(logits.flatten(0, 1).float(), phones.flatten())
        return LossReport(loss, {"accuracy": _accuracy(logits.argmax(dim=2), phones)})

    def validate(self, batch: PhoneBatch) -> dict[str, float]:
        """`cross_entropy` (nats a frame) and `accuracy`; `majority`: the accuracy of always guessing that class;
        `gram_40db`, ...: perceptual distance of the batch from itself with white noise, so far under it."""
        logits, phones = self._classify(batch)
        figures = {
            "cross_entropy": F.cross_entropy(logits.flatten(0, 1), phones.flatten()),
            "accuracy": _accuracy(logits.argmax(dim=2), phones),
            "majority": _accuracy(torch.full_like(phones, self.majority), phones),
        }
        power = batch.wav.square().mean(dim=1, keepdim=True)
        noise = torch.randn_like(batch.wav)
        for ratio in NOISE_DB:
            noisy = batch.wav + (power * 10 ** (-ratio / 10)).sqrt() * noise
            figures[f"gram_{ratio}db"] = perceptual_distance(self.model, noisy, batch.wav)
        return {name: float(value) for name, value in figures.items()}

    def samples(self, batch: PhoneBatch) -> int:
        return batch.wav.numel()

    def _classify(self, batch: PhoneBatch) -> tuple[Tensor, Tensor]:
        """Logits (B, L - lookahead, phones) and the labels of the same frames."""
        logits = self.model(batch.wav)
        return logits, batch.phones[:, : logits.shape[1]]


def _accuracy(guess: Tensor, phones: Tensor) -> Tensor:
    return (guess == phones).float().mean()
