"""Laws of the perceptual loss."""

import math
from collections.abc import Callable
from dataclasses import asdict

import pytest
import torch
from torch import Tensor

from data.dataset import Batch
from data.mel import MelConfig
from distill.classifier import ClassifierConfig, ClassifierSize, PhoneClassifier
from distill.losses.contrastive import ContrastiveConfig
from distill.losses.kl import KLConfig
from distill.losses.perceptual import PerceptualConfig, PerceptualLoss, gram, perceptual_distance
from distill.losses.power import PowerConfig
from distill.objective import DistillationObjective, LossesConfig
from distill.student import Student
from wavenet.distributions import OutputKind
from wavenet.model import WaveNet

HOP, T = 16, 16 * 200
SIZE = ClassifierSize(bands=4, window=24, channels=[6, 8], layers=[3, 2], pools=[4, 4], lookahead=2)


@pytest.fixture
def classifier() -> PhoneClassifier:
    return PhoneClassifier(ClassifierConfig(**asdict(SIZE), sample_rate=8000, hop_length=HOP, phones=["", "a"]))


@pytest.fixture
def speech() -> Tensor:
    """Harmonics under an envelope, and a little noise; (2, T)."""
    t = torch.arange(T) / 8000
    tone = sum(torch.sin(2 * math.pi * 140 * k * t) / k for k in range(1, 12))
    return torch.stack([0.1 * tone * torch.sin(2 * math.pi * 3 * t), 0.05 * tone]) + 0.001 * torch.randn(2, T)


def test_gram_matrices_are_the_mean_products_of_all_pairs_of_channels() -> None:
    hidden = torch.randn(3, 50, 4, dtype=torch.float64)
    matrices = gram(hidden)
    for b in range(3):
        for i in range(4):
            for j in range(4):
                assert matrices[b, i, j].item() == pytest.approx((hidden[b, :, i] * hidden[b, :, j]).sum() / (50 * 4))


def test_a_signal_is_at_no_distance_from_itself(classifier: PhoneClassifier, speech: Tensor) -> None:
    assert perceptual_distance(classifier, speech, speech.clone()) == 0


def test_a_shift_by_a_frame_hardly_counts(classifier: PhoneClassifier, speech: Tensor) -> None:
    """Up to the edges: one part in 200."""
    shifted = perceptual_distance(classifier, speech[:, HOP:], speech[:, :-HOP])
    louder = perceptual_distance(classifier, 1.2 * speech, speech)
    assert shifted < 0.02 * louder


def test_the_distance_grows_with_noise(classifier: PhoneClassifier, speech: Tensor) -> None:
    noise = torch.randn_like(speech) * speech.square().mean(dim=1, keepdim=True).sqrt()
    distances = [
        perceptual_distance(classifier, speech + level * noise, speech).item() for level in (0, 0.03, 0.1, 0.3, 1, 3)
    ]
    assert distances == sorted(set(distances))


def test_every_layer_and_every_clip_has_its_share(classifier: PhoneClassifier, speech: Tensor) -> None:
    x = speech.flip(1)
    shares = []
    for heard, wanted in zip(classifier.activations(x), classifier.activations(speech), strict=True):
        one, other = gram(heard).flatten(1), gram(wanted).flatten(1)
        shares.append((one - other).norm(dim=1) ** 2 / (one.norm(dim=1) ** 2 + other.norm(dim=1) ** 2))
    assert torch.stack(shares).min() > 0
    torch.testing.assert_close(perceptual_distance(classifier, x, speech), torch.stack(shares).mean())


def test_the_gradient_goes_to_the_signal_alone(classifier: PhoneClassifier, speech: Tensor) -> None:
    x, real = (speech + 0.01).requires_grad_(), speech.clone().requires_grad_()
    PerceptualLoss(classifier)(x, real).backward()
    assert x.grad is not None and x.grad.isfinite().all() and (x.grad != 0).all(dim=1).any()
    assert real.grad is None
    assert all(weight.grad is None for weight in classifier.parameters())


def test_following_the_gradient_comes_nearer(classifier: PhoneClassifier, speech: Tensor) -> None:
    loss = PerceptualLoss(classifier)
    x = (0.05 * torch.randn_like(speech)).requires_grad_()
    optimizer = torch.optim.Adam([x], lr=2e-3)
    distances = []
    for _ in range(30):
        optimizer.zero_grad()
        distance = loss(x, speech)
        distance.backward()
        optimizer.step()
        distances.append(distance.item())
    assert distances[-1] < 0.5 * distances[0]


def test_signals_are_brought_to_the_level_of_the_classifier(classifier: PhoneClassifier, speech: Tensor) -> None:
    x = speech.flip(1)
    expected = perceptual_distance(classifier, 0.5 * x, 0.5 * speech)
    assert PerceptualLoss(classifier, level=0.5)(x, speech) == expected
    assert PerceptualLoss(classifier)(x, speech) != expected


def test_autocast_changes_nothing(classifier: PhoneClassifier, speech: Tensor) -> None:
    x = speech.flip(1)
    exact = perceptual_distance(classifier, x, speech)
    with torch.autocast("cpu", torch.bfloat16):
        under = perceptual_distance(classifier, x.bfloat16(), speech.bfloat16())
        assert perceptual_distance(classifier, x, speech) == exact
    assert under.dtype == torch.float32


def test_the_distance_lies_between_0_and_1(classifier: PhoneClassifier, speech: Tensor) -> None:
    assert 0.5 < perceptual_distance(classifier, 1e3 * speech, 1e-6 * speech) <= 1
    assert perceptual_distance(classifier, torch.zeros_like(speech), torch.zeros_like(speech)) == 0


@pytest.mark.parametrize("silent", ["x", "real", "both"])
def test_gradients_are_finite_on_digital_silence(classifier: PhoneClassifier, speech: Tensor, silent: str) -> None:
    x = torch.zeros_like(speech) if silent != "real" else speech.clone()
    x.requires_grad_()
    loss = PerceptualLoss(classifier)(x, speech if silent == "x" else torch.zeros_like(speech))
    loss.backward()
    assert loss.isfinite() and x.grad is not None and x.grad.isfinite().all()


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_distillation_weighs_it_and_hands_its_gradient_to_the_student(
    make_teacher: Callable[[OutputKind], WaveNet],
    make_student: Callable[..., Student],
    mel_config: MelConfig,
    batch: Batch,
    classifier: PhoneClassifier,
    weight: float,
) -> None:
    teacher = make_teacher(OutputKind.mol)
    losses = LossesConfig(
        KLConfig(weight=0.0),
        ContrastiveConfig(weight=0.0),
        PowerConfig([32], frame_weight=0.0, mean_weight=0.0, high_weight=0.0, low_weight=0.0, mel_weight=0.0),
        PerceptualConfig(weight, "somewhere"),
    )
    ear = PerceptualLoss(classifier, level=0.5)
    student = make_student(teacher)
    objective = DistillationObjective(student, teacher, losses, mel_config, 1.0, [], ear)
    said = []
    student.register_forward_hook(lambda module, inputs, output: said.append(output.x))
    report = objective(batch, 0)
    real = batch.wav[:, batch.left :]
    expected = perceptual_distance(classifier, 0.5 * said[0][:, -real.shape[1] :], 0.5 * real)
    assert report.terms == {"perceptual": expected}
    assert report.loss == weight * expected
    report.loss.backward()
    assert any((weight.grad != 0).any() for weight in student.parameters() if weight.grad is not None)
    assert all(weight.grad is None for part in (classifier, teacher) for weight in part.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": -1.0}, "perceptual.weight is -1.0"),
        ({"weight": math.inf}, "perceptual.weight is inf"),
        ({"weight": 1.0}, "perceptual.classifier names no checkpoint: make one with `wavenet train-classifier`"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PerceptualConfig(**settings)
