"""The loop that both stages share. It knows no model: it adds, clips, steps, averages, logs and saves.

A step is a pure function of (weights, optimiser state, step number): torch is seeded anew before each one and the
loader can start anywhere. So a run that is killed at any moment and started again by the same command computes what an
uninterrupted run computes, bit for bit on a CPU.
"""

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from enum import IntEnum, StrEnum
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from wavenet.checkpoint import Description, load_into, save_description, save_weights
from wavenet.training.distributed import Distributed
from wavenet.training.ema import Ema
from wavenet.training.interrupt import StopRequest
from wavenet.training.objective import LossReport, Movable, Objective
from wavenet.training.optim import OptimConfig, build_optimizer, learning_rate
from wavenet.training.records import Records
from wavenet.training.state import TrainerState, flatten, load_state, save_state

SKIPS_IN_A_ROW = 20  # that many steps without a finite loss and gradient stop the run

Batches = Callable[[int], Iterator[Movable]]  # first step (from 0) -> one batch a step, without end


class Stream(IntEnum):
    """What random numbers are for: each use has a stream of its own."""

    training = 0
    validation = 1
    audition = 2


class TrainingDiverged(RuntimeError):  # noqa: N818, it reads as what happened
    """The loss or its gradient has not been finite for `SKIPS_IN_A_ROW` steps."""


class Precision(StrEnum):
    float32 = "float32"
    bfloat16 = "bfloat16"  # autocast: matrix products in bfloat16, weights and sums in float32


@dataclass
class TrainerConfig:
    """How long, how often and where. An interval of 0 means never, where that makes sense.

    `batch_size`, `validate_batches` and `workers` are for whoever builds the batches.
    """

    run: str = "runs/train"  # directory: checkpoint, log.jsonl and TensorBoard events; the same one resumes
    steps: int = 100_000
    batch_size: int = 8  # clips a step, over all processes
    seed: int = 0
    device: str = "auto"  # auto, cpu, cuda, cuda:N
    dtype: Precision = Precision.float32
    clip_norm: float = 10.0
    ema_decay: float = 0.9999
    log_every: int = 10
    validate_every: int = 1_000
    validate_batches: int = 8
    audition_every: int = 5_000
    checkpoint_every: int = 1_000
    workers: int = 2  # processes that load data

    def __post_init__(self) -> None:
        self.dtype = Precision(self.dtype)
        for name in ("steps", "batch_size", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("seed", "validate_every", "validate_batches", "audition_every", "workers"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        if not 0.0 < self.clip_norm < math.inf:
            raise ValueError(f"clip_norm is {self.clip_norm}; it must be positive and finite, 10 for instance")
        if not 0.0 <= self.ema_decay < 1.0:
            raise ValueError(f"ema_decay is {self.ema_decay}; it must be in [0, 1), 0.9999 for instance")


class Trainer:
    """Trains `objective.model` and keeps its checkpoint in `config.run`.

    `batches(first_step)` yields this process's batches from that step on; `valid_batches` are fixed. `description`
    says what the weights are; its `training` holds the caller's facts of the run. All of it but `step` is pinned: a
    run resumes only under an equal description, seed, batch size and optimiser (learning rate, schedule, number of
    steps and the intervals may change).
    """

    def __init__(
        self,
        config: TrainerConfig,
        optim: OptimConfig,
        objective: Objective,
        batches: Batches,
        valid_batches: Sequence[Movable],
        description: Description,
        processes: Distributed,
    ) -> None:
        if config.batch_size % processes.world_size:
            raise ValueError(
                f"batch_size is {config.batch_size}, for {processes.world_size} processes; it must be a multiple"
            )
        self.config, self.optim, self.processes = config, optim, processes
        self.batches, self.valid_batches, self.description = batches, valid_batches, description
        self.objective = objective.to(processes.device)
        self.model = objective.model.train()
        self.step = 0  # steps done
        self.skipped = 0
        self.skipped_in_a_row = 0
        self._saved = 0  # the step of the checkpoint
        self._run = Path(config.run)
        self._parallel = processes.wrap(objective)  # before the average: it may replace the initial weights
        self._params = [param for param in self.model.parameters() if param.requires_grad]
        self._optimizer = build_optimizer(self._params, optim)
        self._ema = Ema(self.model, config.ema_decay)

    def run(self) -> bool:
        """Train up to `config.steps`, going on from the checkpoint in the run directory if there is one.

        Returns True when all steps are done and False when SIGINT or SIGTERM ended the run early, with a checkpoint.
        Raises `TrainingDiverged`, and `CheckpointError` if the run directory cannot be written or resumed.
        """
        try:
            self._resume()
            if self.step >= self.config.steps:
                self._say(f"{self._run} is finished: {self.step} steps of {self.config.steps} are done")
                return True
            with StopRequest() as stop, self._records() as records:
                return self._loop(stop, records)
        finally:
            self._parallel = self.objective  # lets go of the process group: see `distributed`

    def _loop(self, stop: StopRequest, records: Records | None) -> bool:
        last, samples, seconds = self.config.steps, 0, 0.0
        bar = tqdm(total=last, initial=self.step, desc=str(self._run), disable=records is None)
        with bar:
            started = time.perf_counter()
            for batch in self.batches(self.step):
                values, stopping = self._train_step(batch.to(self.processes.device), stop)
                samples += self.objective.samples(batch) * self.processes.world_size
                seconds += time.perf_counter() - started
                bar.set_postfix(loss=values["train/loss"], samples_per_s=round(samples / seconds), refresh=False)
                bar.update()
                if records is not None:
                    if self._due(self.config.log_every):
                        records.curves(self.step, values)
                        records.speed(self.step, samples / seconds)
                        samples, seconds = 0, 0.0
                    self._evaluate(records)
                self._save_if_due(records, stopping)
                if stopping or self.step == last:
                    break
                started = time.perf_counter()
            else:
                raise RuntimeError(f"the batches ended after step {self.step} of {last}; they must be without end")
        return self._farewell(stopping)

    def _train_step(self, batch: Movable, stop: StopRequest) -> tuple[dict[str, float], bool]:
        """One step on `batch`: its curves, and whether any process was asked to stop."""
        rate = learning_rate(self.optim, self.step, self.config.steps)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad()
        self._seed(Stream.training, self.step, self.processes.rank)
        autocast = self.config.dtype is Precision.bfloat16
        with torch.autocast(self.processes.device.type, torch.bfloat16, enabled=autocast):
            report: LossReport = self._parallel(batch, self.step)
        torch.autograd.backward(report.loss)
        norm = torch.nn.utils.clip_grad_norm_(self._params, self.config.clip_norm)
        self.step += 1

        # One exchange per step, so that all processes skip together and stop together.
        scalars = [report.loss, *report.terms.values(), norm, torch.full_like(report.loss, stop.requested)]
        loss, *terms, norm, stops = self.processes.mean(
            torch.stack([scalar.detach().double() for scalar in scalars])
        ).tolist()
        if math.isfinite(loss) and math.isfinite(norm):
            self._optimizer.step()
            self._ema.update()
            self.skipped_in_a_row = 0
        else:
            self._skip(loss, norm)
        named = {"loss": loss, **dict(zip(report.terms, terms, strict=True))}
        named |= {"learning_rate": rate, "grad_norm": norm, "skipped_steps": self.skipped}
        return {f"train/{name}": value for name, value in named.items()}, stops > 0

    def _skip(self, loss: float, norm: float) -> None:
        self.skipped += 1
        self.skipped_in_a_row += 1
        self._say(
            f"step {self.step} is skipped: its loss is {loss}, its gradient norm {norm} "
            f"({self.skipped_in_a_row} in a row; {SKIPS_IN_A_ROW} stop the run)"
        )
        if self.skipped_in_a_row == SKIPS_IN_A_ROW:
            raise TrainingDiverged(
                f"the loss or its gradient was not finite for {SKIPS_IN_A_ROW} steps up to step {self.step}; "
                f"{self._run} keeps the checkpoint of step {self._saved}: "
                "run again with a lower learning rate, a smaller clip_norm or dtype=float32"
            )

    def _evaluate(self, records: Records) -> None:
        if self.valid_batches and self._due(self.config.validate_every):
            figures = self._validate()
            records.curves(self.step, {f"valid/{name}": value for name, value in figures.items()})
            if remark := self.objective.remark(figures):
                self._say(f"{self._run}, step {self.step}: {remark}")
                records.remark(self.step, remark)
        if self._due(self.config.audition_every):
            with self._evaluating():
                self._seed(Stream.audition)
                records.auditions(self.step, self.objective.audition())

    def _validate(self) -> dict[str, float]:
        """The mean over the validation batches, by name, in float32: what is measured is what is shipped.

        A figure that some batches lack is the mean over the others.
        """
        values: dict[str, list[float]] = {}
        with self._evaluating():
            for index, batch in enumerate(self.valid_batches):
                self._seed(Stream.validation, index)
                for name, value in self.objective.validate(batch.to(self.processes.device)).items():
                    values.setdefault(name, []).append(value)
        return {name: sum(each) / len(each) for name, each in values.items()}

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Averaged weights, eval mode, no gradients, and random draws that training does not notice."""
        device = self.processes.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad(), self._ema.applied():
            self.model.eval()
            try:
                yield
            finally:
                self.model.train()

    def _save_if_due(self, records: Records | None, stopping: bool) -> None:
        """Save at the interval, at the end and on a stop, but not amid skipped steps.

        What makes steps fail may be the weights themselves: then the last checkpoint is the good one. A checkpoint
        that falls due meanwhile is made up for after the next good step. The end is the end: its weights are finite.
        """
        every = self.config.checkpoint_every
        due = self.step // every > self._saved // every or stopping
        if self.step == self.config.steps or (due and not self.skipped_in_a_row):
            if records is not None:
                records.sync()
                self._save()
            self._saved = self.step

    def _save(self) -> None:
        """trainer.pt comes last: a run that counts as finished then has its weights in place."""
        facts = {"trainer": asdict(self.config), "optim": asdict(self.optim)}
        del facts["trainer"]["run"]  # a path of this machine
        training = {**self.description.training, **facts, "skipped_steps": self.skipped}
        save_weights(self._run, self._ema.weights())
        save_description(self._run, replace(self.description, step=self.step, training=training))
        self._save_state()

    def _save_state(self) -> None:
        state = TrainerState(
            pinned=self._pinned(),
            step=self.step,
            skipped=self.skipped,
            skipped_in_a_row=self.skipped_in_a_row,
            model=self.model.state_dict(),
            optimizer=self._optimizer.state_dict(),
            ema=self._ema.state_dict(),
        )
        save_state(self._run, state)

    def _resume(self) -> None:
        state = load_state(self._run, self._pinned())
        self.processes.barrier()  # all have looked before one writes
        if state is None:
            if self.processes.is_main:
                self._save_state()  # tries the disk, and marks the directory as this run's own
            return
        load_into(self.model, state.model)
        self._optimizer.load_state_dict(state.optimizer)
        self._ema.load_state_dict(state.ema)
        self.step = self._saved = state.step
        self.skipped, self.skipped_in_a_row = state.skipped, state.skipped_in_a_row
        if 0 < self.step < self.config.steps:
            self._say(f"{self._run}: going on from step {self.step}")

    def _pinned(self) -> dict[str, object]:
        """What must not change within a run, flat; the optimiser's state means nothing under other moments."""
        described = {name: value for name, value in asdict(self.description).items() if name not in ("step", "bands")}
        trainer = {"seed": self.config.seed, "batch_size": self.config.batch_size, "ema_decay": self.config.ema_decay}
        names = ("kind", "betas", "eps", "weight_decay")
        optim = {name: getattr(self.optim, name) for name in names}
        return flatten({**described, "trainer": trainer, "optim": optim})

    def _farewell(self, stopping: bool) -> bool:
        done = self.step == self.config.steps
        end = f"all {self.step} steps are done" if done else f"stopped after step {self.step}"
        rest = "" if done else f" (saved up to step {self._saved}); the same command goes on from there"
        self._say(f"{end}; the checkpoint is in {self._run}{rest}")
        return done

    def _due(self, every: int) -> bool:
        """Whether this step ends an interval; the last step ends them all."""
        return every > 0 and (self.step % every == 0 or self.step == self.config.steps)

    def _seed(self, *stream: int) -> None:
        """Seed torch by a pure function of the run's seed and `stream`."""
        words = np.random.SeedSequence([self.config.seed, *stream]).generate_state(1, np.uint64)
        torch.manual_seed(int(words[0]))

    def _records(self) -> AbstractContextManager[Records | None]:
        return Records(self._run, self.step) if self.processes.is_main else nullcontext()

    def _say(self, text: str) -> None:
        if self.processes.is_main:
            tqdm.write(text, file=sys.stderr)
