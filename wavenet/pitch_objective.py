"""What teaches the pitch head to hear, in a mel, the F0 that was measured."""

import math

from torch import Tensor

from data.dataset import Batch
from wavenet.pitch import PitchHead
from wavenet.training.objective import LossReport, Objective

LOG_F0_WEIGHT = 10.0  # a tenth of a nat, two semitones, weighs as much as a wrong voicing
CENT = math.log(2) / 1200  # nats


class PitchObjective(Objective):
    """Cross-entropy of the voicing + LOG_F0_WEIGHT x the mean distance of ln F0 where there is a voice.

    Args:
        model: the head.
        hop: samples per frame.
    """

    model: PitchHead

    def __init__(self, model: PitchHead, hop: int) -> None:
        super().__init__()
        self.model, self.hop = model, hop

    def forward(self, batch: Batch, step: int) -> LossReport:
        voicing, log_f0 = self.model.losses(batch.mel, self._measured(batch), self._counted(batch))
        return LossReport(voicing + LOG_F0_WEIGHT * log_f0, {"voicing": voicing.detach(), "log_f0": log_f0.detach()})

    def validate(self, batch: Batch) -> dict[str, float]:
        """The losses; `cents`, the median error where both are voiced; and `misheard`, the share of frames that are
        voiced in one of the two only.
        """
        measured = self._measured(batch)
        heard, known = (f0[:, self._counted(batch)] for f0 in (self.model.f0(batch.mel), measured))  # (B, l)
        both = (heard > 0) & (known > 0)
        figures = {name: float(value) for name, value in self(batch, 0).terms.items()}
        figures["misheard"] = float(((heard > 0) != (known > 0)).double().mean())
        if both.any():
            figures["cents"] = float((heard[both] / known[both]).log().abs().median() / CENT)
        return figures

    def samples(self, batch: Batch) -> int:
        return batch.wav[:, batch.left :].numel()

    def _counted(self, batch: Batch) -> slice:
        """The frames that do, of the mel."""
        return slice(batch.left // self.hop + batch.margin, batch.mel.shape[2] - batch.margin)

    @staticmethod
    def _measured(batch: Batch) -> Tensor:
        assert batch.f0 is not None
        return batch.f0
