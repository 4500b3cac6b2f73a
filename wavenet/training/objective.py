"""What the trainer needs to know of a task: a batch goes in, named scalar terms come out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


class Movable(Protocol):
    """A batch: anything that can be moved to a device, a tensor included."""

    def to(self, device: torch.device) -> Self: ...


@dataclass
class LossReport:
    """The scalar to be minimised, and the terms that are logged beside it; the same names in all processes."""

    loss: Tensor  # ()
    terms: dict[str, Tensor] = field(default_factory=dict)  # each ()


@dataclass
class Audition:
    """A clip to be heard in TensorBoard."""

    name: str
    wav: NDArray[np.float32]  # (T,) in [-1, 1]
    sample_rate: int  # Hz


class Objective(nn.Module, ABC):
    """A task: the trainable `model`, how a batch scores it, and how it is judged.

    Optimiser, average, checkpoints and the switch between train and eval mode see `model` alone. Whatever else the
    objective holds (a frozen teacher, filter banks) takes no gradient and stays in the mode that it was given.
    """

    model: nn.Module

    @abstractmethod
    def forward(self, batch: Any, step: int) -> LossReport:
        """The loss of `batch` in the given step (from 0). Randomness comes from torch's generators, seeded per step."""

    @abstractmethod
    def validate(self, batch: Any) -> dict[str, float]:
        """Figures of merit of `batch`, by name; called under `no_grad` with averaged weights in eval mode."""

    def remark(self, figures: Mapping[str, float]) -> str:
        """What the mean figures of a validation come to, in words; empty where there is nothing to say."""
        return ""

    def audition(self) -> list[Audition]:
        """Fixed clips for TensorBoard; called under `no_grad` with averaged weights in eval mode."""
        return []

    @abstractmethod
    def samples(self, batch: Any) -> int:
        """How many waveform samples of `batch` the loss counts; their rate is logged."""
