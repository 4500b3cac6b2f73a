"""The contrastive loss: likely under its own mel, unlikely under another one (arXiv 1711.10433, section 4).

    KL(P_S(c1) || P_T(c1)) - 0.3 KL(P_S(c1) || P_T(c2))

One and the same sample x of the student, said under c1, is heard by the teacher twice. A teacher that leans on its own
past judges both alike; what it has to say about the condition is what the difference keeps.
"""

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from data.dataset import Batch


@dataclass
class ContrastiveConfig:
    """The contrastive term.

    Args:
        weight: factor of the subtracted divergence within the KL, whose weight and schedule it shares; 0 leaves the
            teacher's second pass out.
        bound: nats a sample that the subtracted divergence approaches and never exceeds.
    """

    weight: float = 0.3
    bound: float = 5.0

    def __post_init__(self) -> None:
        if not 0 <= self.weight < 1:  # from 1 on, a teacher that ignores the condition would push the student away
            raise ValueError(f"contrastive.weight is {self.weight}, but must be from 0 to below 1; 0.3 is the paper's")
        if not 0 < self.bound < math.inf:
            raise ValueError(f"contrastive.bound is {self.bound}, but must be positive and finite, as 5")


def bounded(kl: Tensor, bound: float) -> Tensor:
    """bound * (1 - e^(-KL / bound)): KL where it is small, at most the bound; further apart is no better than apart.

    Unbounded, the loss would fall without end by samples that the teacher rules out under the other condition.
    """
    return -bound * torch.expm1(-kl / bound)


def other_condition(batch: Batch) -> Batch:
    """The batch with every clip under the condition, mel, F0 and speaker, of the clip before it; the waveform goes with
    them, for the phase of its pitch.

    Of a single clip the condition is half a window late: other sounds by the same voice, without another read of the
    corpus. The seam, from the end of the window to its start, is one break among the speech's own.
    """
    if len(batch.wav) == 1:
        return _half_a_window_late(batch)
    rolled: dict[str, Any] = {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, Tensor) and field.name != "padding":
            rolled[field.name] = value.roll(1, dims=0)
    return replace(batch, **rolled)


def _half_a_window_late(batch: Batch) -> Batch:
    """Rolled in time; beyond the waveform there is silence."""
    L, T = batch.mel.shape[-1], batch.wav.shape[-1]
    hop = T // (L - 2 * batch.margin)
    beyond = batch.margin * hop
    wav = F.pad(batch.wav, (beyond, beyond)).roll(L // 2 * hop, dims=-1)[:, beyond : beyond + T]
    f0 = None if batch.f0 is None else batch.f0.roll(L // 2, dims=-1)
    return replace(batch, wav=wav, mel=batch.mel.roll(L // 2, dims=-1), f0=f0)
