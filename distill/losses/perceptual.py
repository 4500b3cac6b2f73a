"""The perceptual loss: what a phone classifier hears in the student's speech and in real speech is to be alike.

Not its activations are compared but how they go together, their Gram matrices (style matrices of Gatys et al. 2015,
arXiv 1508.06576, eq. 3 to 5), which Parallel WaveNet (arXiv 1711.10433, section 4) found better than the activations:
they do not ask for the same sound at the same moment.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distill.classifier import PhoneClassifier


@dataclass
class PerceptualConfig:
    """The perceptual loss.

    Args:
        weight: of the distance; 0 leaves it out.
        classifier: checkpoint directory of `wavenet train-classifier`.
    """

    weight: float = 0.0
    classifier: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"perceptual.weight is {self.weight}, but must be finite and not negative")
        if self.weight and not self.classifier:
            raise ValueError(
                f"perceptual.weight is {self.weight}, but perceptual.classifier names no checkpoint: make one with "
                "`wavenet train-classifier`, or set the weight to 0"
            )


class PerceptualLoss(nn.Module):
    """Distance of two signals as a frozen classifier hears them.

    Args:
        classifier: takes no gradient.
        level: its waveform's level over that of the signals, that is the ratio of the gains.
    """

    def __init__(self, classifier: PhoneClassifier, level: float = 1.0) -> None:
        super().__init__()
        self.classifier = classifier.eval().requires_grad_(False)
        self.level = level

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """`perceptual_distance`; the gradient goes to x alone."""
        return perceptual_distance(self.classifier, self.level * x, self.level * real)


def perceptual_distance(classifier: PhoneClassifier, x: Tensor, real: Tensor) -> Tensor:
    """How far x is from real speech, both (B, T) at the classifier's level, T a multiple of its hop: ().

    The mean over layers and clips of |G(x) - G(real)|^2 / (|G(x)|^2 + |G(real)|^2) with Gram matrices G: Gatys' squared
    error (eq. 4), relative, so that no layer rules by the size of its activations. It is 0 for Gram matrices that agree
    and 1 for those of activations that have no channel in common. In float32 whatever autocast says.
    """
    with torch.autocast(x.device.type, enabled=False):
        heard = [gram(layer) for layer in classifier.activations(x.float())]
        with torch.no_grad():
            wanted = [gram(layer) for layer in classifier.activations(real.float())]
        return torch.stack([_distance(one, other) for one, other in zip(heard, wanted, strict=True)]).mean()


def _distance(one: Tensor, other: Tensor) -> Tensor:
    """(B, C, C) twice -> (B,); 0 for two that are all zero."""
    size = one.square().sum(dim=(1, 2)) + other.square().sum(dim=(1, 2))
    return (one - other).square().sum(dim=(1, 2)) / size.clamp(min=torch.finfo(size.dtype).tiny)


def gram(activations: Tensor) -> Tensor:
    """Inner products of all pairs of channels, over time and channels: (B, T, C) -> (B, C, C)."""
    T, C = activations.shape[1:]
    return activations.transpose(1, 2) @ activations / (T * C)
