"""The optimiser, and the learning rate as a pure function of the step: a schedule has no state to save."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

import torch
from torch import nn


class OptimizerKind(StrEnum):
    adam = "adam"
    adamw = "adamw"


class ScheduleKind(StrEnum):
    constant = "constant"
    cosine = "cosine"  # from lr to lr * final_lr_ratio at the last step
    halving = "halving"  # halved every `halve_every` steps


@dataclass
class OptimConfig:
    """Adam or AdamW, and the course of its learning rate."""

    kind: OptimizerKind = OptimizerKind.adam
    lr: float = 2e-4
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8
    weight_decay: float = 0.0
    warmup_steps: int = 0  # the rate rises linearly over these first steps
    schedule: ScheduleKind = ScheduleKind.constant
    final_lr_ratio: float = 0.1  # cosine only
    halve_every: int = 200_000  # halving only; steps

    def __post_init__(self) -> None:
        self.kind = OptimizerKind(self.kind)
        self.schedule = ScheduleKind(self.schedule)
        if not 0.0 < self.lr < math.inf:
            raise ValueError(f"lr is {self.lr}; it must be positive and finite, 2e-4 for instance")
        if len(self.betas) != 2 or not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise ValueError(f"betas is {self.betas}; it must be two numbers in [0, 1), [0.9, 0.999] for instance")
        if not 0.0 < self.eps < math.inf:
            raise ValueError(f"eps is {self.eps}; it must be positive and finite, 1e-8 for instance")
        if not 0.0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay is {self.weight_decay}; it must be 0 or more")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps is {self.warmup_steps}; it must be 0 or more")
        if not 0.0 <= self.final_lr_ratio <= 1.0:
            raise ValueError(f"final_lr_ratio is {self.final_lr_ratio}; it must be in [0, 1]")
        if self.halve_every < 1:
            raise ValueError(f"halve_every is {self.halve_every}; it must be at least 1 step")


def build_optimizer(params: Iterable[nn.Parameter], config: OptimConfig) -> torch.optim.Optimizer:
    """An Adam or AdamW over `params`; its learning rate is to be set by `learning_rate` at every step."""
    optimizer = {OptimizerKind.adam: torch.optim.Adam, OptimizerKind.adamw: torch.optim.AdamW}[config.kind]
    beta1, beta2 = config.betas
    return optimizer(
        params, lr=config.lr, betas=(beta1, beta2), eps=config.eps, weight_decay=config.weight_decay, fused=True
    )


def learning_rate(config: OptimConfig, step: int, total_steps: int) -> float:
    """The learning rate of `step`, counted from 0, in a run of `total_steps`."""
    return config.lr * _warmup(config, step) * _decay(config, step, total_steps)


def _warmup(config: OptimConfig, step: int) -> float:
    return min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0


def _decay(config: OptimConfig, step: int, total_steps: int) -> float:
    match config.schedule:
        case ScheduleKind.constant:
            return 1.0
        case ScheduleKind.halving:
            return float(0.5 ** (step // config.halve_every))
        case ScheduleKind.cosine:
            span = max(1, total_steps - 1 - config.warmup_steps)
            progress = min(1.0, max(0.0, (step - config.warmup_steps) / span))
            low = config.final_lr_ratio
            return low + (1.0 - low) * 0.5 * (1.0 + math.cos(math.pi * progress))
