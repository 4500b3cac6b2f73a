"""A whole training run small enough to be killed often: a regression whose batches are a pure function of the step.

As a program: `python toy.py RUN STEPS [KEY=VALUE ...]`, the keys being fields of TrainerConfig and OptimConfig, or
    noise=S       noise in the loss, from torch's generator
    pause=S       seconds that a step takes
    nan=A:B       the loss is NaN in steps A to B - 1 (counted from 0) of the last process
    term=STEP     SIGTERM to the last process in that step
    kill=S        SIGKILL that many seconds after the start
    kill=NAME:N   SIGKILL in the N-th atomic write of the file NAME: it is written, but not yet renamed
    grads=FILE    save the gradients of the first batch, before training
Under torchrun's variables the processes share each batch. Exits with 3 when a signal stopped it.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
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
SETTINGS = {"batch_size": BATCH, "log_every": 1, "validate_every": 10, "audition_every": 0, "checkpoint_every": 5}


@dataclass
class Pairs:
    x: Tensor  # (B, 4)
    y: Tensor  # (B, 1)

    def to(self, device: torch.device) -> "Pairs":
        return Pairs(self.x.to(device), self.y.to(device))


def pairs(index: int, part: slice = slice(None)) -> Pairs:
    generator = torch.Generator().manual_seed(index)
    x = torch.randn(BATCH, 4, generator=generator)
    return Pairs(x[part], x[part].prod(dim=1, keepdim=True))


@dataclass
class Mishaps:
    """What goes wrong, and when (steps from 0)."""

    pause: float = 0.0  # seconds a step
    nan: range = field(default_factory=lambda: range(0))
    at_step: dict[int, Callable[[], None]] = field(default_factory=dict)


class Regression(Objective):
    """An MLP against noisy targets, with a constant of its own that is not to be trained."""

    def __init__(self, noise: float = 0.1, mishaps: Mishaps | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Dropout(noise), nn.Linear(16, 1))
        self.frozen = nn.Linear(1, 1).requires_grad_(False).eval()
        self.noise = noise
        self.mishaps = mishaps or Mishaps()

    def forward(self, batch: Pairs, step: int) -> LossReport:
        time.sleep(self.mishaps.pause)
        self.mishaps.at_step.get(step, lambda: None)()
        error = (self.model(batch.x) - batch.y + self.noise * torch.randn(batch.y.shape)).square().mean()
        size = self.model[0].weight.square().mean()
        factor = float("nan") if step in self.mishaps.nan else 1.0
        return LossReport((error + 0.01 * size) * factor, {"error": error, "size": size})

    def validate(self, batch: Pairs) -> dict[str, float]:
        draw = torch.randn(()).item()
        return {"error": (self.model(batch.x) - batch.y).square().mean().item(), "draw": draw}

    def audition(self) -> list[Audition]:
        tone = np.sin(2 * np.pi * 440.0 * np.arange(4000) / 16000)
        return [Audition("clip/tone", (0.5 * tone).astype(np.float32), 16000)]

    def samples(self, batch: Pairs) -> int:
        return batch.y.numel()


def trainer(run: Path, objective: Regression, processes: Distributed | None = None, **settings: Any) -> Trainer:
    """A trainer of the toy; `settings` are fields of TrainerConfig and OptimConfig."""
    processes = processes or Distributed(0, 1, torch.device("cpu"))
    mine = {field.name for field in fields(TrainerConfig)}
    config = TrainerConfig(run=str(run), **(SETTINGS | {key: settings[key] for key in settings if key in mine}))
    optim = OptimConfig(**({"lr": 1e-2} | {key: settings[key] for key in settings if key not in mine}))
    part = slice(processes.rank, None, processes.world_size)

    def batches(first_step: int) -> Iterator[Pairs]:
        step = first_step
        while True:
            yield pairs(step, part)
            step += 1

    description = Description(
        kind="teacher",
        model={"width": 16},
        mel={"bands": [1, 2]},
        gain=0.5,
        speakers=["anna"],
        training={"data": "toy"},
    )
    return Trainer(config, optim, objective, batches, [pairs(10**6), pairs(10**6 + 1)], description, processes)


def arm_kill(moment: str) -> None:
    """SIGKILL this process at the moment described above."""

    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    name, _, count = moment.rpartition(":")
    if not name:
        timer = threading.Timer(float(moment), kill)
        timer.daemon = True
        timer.start()
        return
    rename, left = Path.replace, int(count)

    def deadly(self: Path, target: Path) -> Path:
        nonlocal left
        left -= target.name == name
        if left == 0:
            kill()
        return rename(self, target)

    Path.replace = deadly


def save_gradients(path: str, noise: float, processes: Distributed) -> None:
    objective, part = Regression(noise), slice(processes.rank, None, processes.world_size)
    shared = processes.wrap(objective)  # held until the gradients are exchanged
    shared(pairs(0, part), 0).loss.backward()
    if processes.is_main:
        torch.save([param.grad for param in objective.model.parameters()], path)


def main(run: str, steps: str, *words: str) -> None:
    settings: dict[str, str] = dict(word.split("=") for word in words)
    moment, noise, grads = settings.pop("kill", ""), float(settings.pop("noise", "0.1")), settings.pop("grads", "")
    mishaps = Mishaps(pause=float(settings.pop("pause", "0")))
    nan, term = range(*map(int, settings.pop("nan", "0:0").split(":"))), settings.pop("term", "")
    with distributed("cpu") as processes:
        if processes.rank == processes.world_size - 1:
            mishaps.nan = nan
            if term:
                mishaps.at_step[int(term)] = lambda: os.kill(os.getpid(), signal.SIGTERM)
        objective = Regression(noise, mishaps)
        if grads:
            save_gradients(grads, noise, processes)
        numbers = {name: float(value) if "." in value else int(value) for name, value in settings.items()}
        toy = trainer(Path(run), objective, processes, steps=int(steps), **numbers)
        if moment:
            arm_kill(moment)
        finished = toy.run()
    left = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    assert not [name for name in left if "gloo" in name], f"the process group's threads outlive it: {left}"
    sys.exit(0 if finished else 3)


if __name__ == "__main__":
    main(*sys.argv[1:])
