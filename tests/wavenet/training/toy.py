"""A whole training run small enough to be killed often: a regression whose batches are a pure function of the step.

As a program: `python toy.py RUN STEPS [KEY=VALUE ...]`, the keys being fields of TrainerConfig, OptimConfig, or one of
    nan=A:B       the loss is NaN in steps A to B - 1
    kill=NAME:N   SIGKILL in the N-th atomic write of the file NAME, after the temporary file and before the rename
    pause=S       seconds of sleep in every step, for those who send signals
"""

import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wavenet.checkpoint import Description
from wavenet.training import (
    Audition,
    Distributed,
    LossReport,
    Objective,
    OptimConfig,
    Trainer,
    TrainerConfig,
    distributed,
)

BATCH = 8


@dataclass
class Pairs:
    x: Tensor  # (B, 4)
    y: Tensor  # (B, 1)

    def to(self, device: torch.device) -> "Pairs":
        return Pairs(self.x.to(device), self.y.to(device))


def pairs(index: int) -> Pairs:
    generator = torch.Generator().manual_seed(index)
    x = torch.randn(BATCH, 4, generator=generator)
    return Pairs(x, x.prod(dim=1, keepdim=True))


class Regression(Objective):
    """An MLP under noisy weights; `noise` makes the loss depend on torch's generator."""

    def __init__(self, noise: float = 0.1, nan: range = range(0), pause: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Dropout(noise), nn.Linear(16, 1))
        self.frozen = nn.Linear(1, 1).requires_grad_(False).eval()
        self.noise, self.nan, self.pause = noise, nan, pause

    def forward(self, batch: Pairs, step: int) -> LossReport:
        time.sleep(self.pause)
        error = (self.model(batch.x) - batch.y + self.noise * torch.randn(batch.y.shape)).square().mean()
        size = self.model[0].weight.square().mean()
        poison = float("nan") if step in self.nan else 1.0
        return LossReport((error + 0.01 * size) * poison, {"error": error, "size": size})

    def validate(self, batch: Pairs) -> dict[str, float]:
        draw = torch.randn(()).item()
        return {"error": (self.model(batch.x) - batch.y).square().mean().item(), "draw": draw}

    def audition(self) -> list[Audition]:
        tone = np.sin(2 * np.pi * 440.0 * np.arange(4000) / 16000)
        return [Audition("clip/tone", (0.5 * tone).astype(np.float32), 16000)]

    def samples(self, batch: Pairs) -> int:
        return batch.y.numel()


def trainer(
    run: Path, processes: Distributed, settings: dict[str, Any], objective: Regression | None = None
) -> Trainer:
    """A trainer of the toy; `settings` are fields of TrainerConfig and OptimConfig."""
    mine = {field.name for field in fields(TrainerConfig)}
    chosen = {"batch_size": BATCH, "log_every": 1, "validate_every": 10, "audition_every": 0, "checkpoint_every": 5}
    chosen |= {name: value for name, value in settings.items() if name in mine}
    optim = {"lr": 1e-2} | {name: value for name, value in settings.items() if name not in mine}

    def batches(first_step: int) -> Iterator[Pairs]:
        part = slice(processes.rank, None, processes.world_size)
        step = first_step
        while True:
            whole = pairs(step)
            yield Pairs(whole.x[part], whole.y[part])
            step += 1

    return Trainer(
        TrainerConfig(run=str(run), **chosen),
        OptimConfig(**optim),
        objective or Regression(),
        batches,
        [pairs(10**6), pairs(10**6 + 1)],
        Description(kind="teacher", model={"width": 16}, mel={"bands": [1, 2]}, gain=0.5, speakers=["anna"]),
        processes,
    )


def kill_amid_write(name: str, count: int) -> None:
    """Make the `count`-th rename onto a file called `name` the last thing that this process tries."""
    rename, seen = Path.replace, 0

    def deadly(self: Path, target: Path) -> Path:
        nonlocal seen
        seen += target.name == name
        if seen == count and target.name == name:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(self, target)

    Path.replace = deadly  # type: ignore[method-assign]


def main(run: str, steps: str, *pairs_of_settings: str) -> None:
    settings = dict(pair.split("=") for pair in pairs_of_settings)
    if "kill" in settings:
        name, count = settings.pop("kill").split(":")
        kill_amid_write(name, int(count))
    nan = range(*map(int, settings.pop("nan", "0:0").split(":")))
    objective = Regression(float(settings.pop("noise", "0.1")), nan, float(settings.pop("pause", "0")))
    numbers = {name: float(value) if "." in value else int(value) for name, value in settings.items()}
    with distributed("cpu") as processes:
        finished = trainer(Path(run), processes, {"steps": int(steps), **numbers}, objective).run()
    sys.exit(0 if finished else 3)


if __name__ == "__main__":
    main(*sys.argv[1:])
