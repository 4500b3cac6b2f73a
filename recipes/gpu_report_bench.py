"""What the tables of a GPU report share: sizes, a clock, the limits of the device, and a file of rows."""

import json
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from data.atomic import write_atomic
from recipes.benchmark import timing
from recipes.benchmark.rows import LIMITS, Row, as_json, measured
from recipes.benchmark.timing import Name

COPY = "copy"
OURS, EAGER, COMPILED = "ours", "eager", "torch.compile"  # ways to compute the same
Shape = tuple[int, ...]


def matrix(dtype: str) -> str:
    """The limit's name."""
    return f"matrix product, {dtype}"


@dataclass(frozen=True)
class Training:
    """Steps on crops of `frames` frames in the loss; of a student if one is named."""

    teacher: str
    student: str
    batch: int
    frames: int

    @property
    def task(self) -> str:
        return f"distillation, {self.student} from {self.teacher}" if self.student else f"teacher, {self.teacher}"


@dataclass(frozen=True)
class Sizes:
    """Of everything that is measured. The first preset of `students` has the targets, the last case the largest."""

    device: str
    copied: int  # bytes
    square: int  # rows and columns of a matrix product
    gate: Shape  # B, T, gated channels
    layers: Sequence[Shape]  # B, T, residual (and gated) channels, skip channels
    mixture: Shape  # mixtures, draws
    students: Mapping[str, Sequence[tuple[int, float]]]  # preset -> utterances, seconds of each
    teacher: str
    batches: Sequence[int]  # of the sequential teacher
    samples: Mapping[str, int]  # sampler -> samples of each utterance
    training: Sequence[Training]
    repeats: int
    least: float  # seconds of a repetition

    @property
    def half(self) -> str:
        """The 16-bit type of the kernels' tables: Triton's interpreter multiplies bfloat16 wrongly."""
        return "float16" if self.device == "cpu" else "bfloat16"

    @property
    def compiler(self) -> str:
        """Of torch.compile; in a dry run one that only traces."""
        return "aot_eager" if self.device == "cpu" else "inductor"


FULL = Sizes(
    device="cuda",
    copied=2**32,
    square=8192,
    gate=(16, 2**18, 64),
    layers=((16, 2**17, 64, 0), (16, 2**15, 128, 128), (16, 2**13, 256, 256)),
    mixture=(2**18, 100),
    students={"paper": ((1, 1.0), (1, 10.0), (16, 10.0)), "fast": ((1, 1.0), (1, 10.0), (16, 10.0))},
    teacher="base",
    batches=(1, 16, 128),
    samples={"naive": 20, "cached": 100},
    training=(
        Training("base", "", 32, 32),
        Training("paper", "", 16, 32),
        Training("base", "paper", 8, 32),
    ),
    repeats=7,
    least=0.05,
)
DRY = Sizes(
    device="cpu",
    copied=2**16,
    square=64,
    gate=(1, 16, 16),
    layers=((1, 16, 16, 0),),
    mixture=(8, 3),
    students={"tiny": ((1, 0.02), (1, 0.05), (2, 0.05))},
    teacher="tiny",
    batches=(1, 2, 3),
    samples={"naive": 1, "cached": 2},
    training=(Training("tiny", "", 1, 4), Training("tiny", "tiny", 1, 8)),
    repeats=1,
    least=0.0,
)


@dataclass
class Bench:
    """One table on its way: rows and errors, written as they come.

    Args:
        file: of both, as JSON.
        dry: on a CPU, in a blink: shows that everything runs, and no speed.
    """

    file: Path
    dry: bool
    rows: list[Row] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def sizes(self) -> Sizes:
        return DRY if self.dry else FULL

    @property
    def device(self) -> torch.device:
        return torch.device(self.sizes.device)

    def race(
        self, contestants: Mapping[Name, Callable[[], object]], repeats: int | None = None
    ) -> dict[Name, list[float]]:
        """Seconds a call, one figure a repetition; contestants take turns. Who fails is noted and left out."""
        fit = {name: run for name, run in contestants.items() if self.attempt(str(name), run)}
        clock = timing.race if self.dry else _race
        return clock(fit, repeats or self.sizes.repeats, self.sizes.least)

    def attempt(self, what: str, run: Callable[[], object]) -> bool:
        """Whether it runs; why not goes into the report."""
        try:
            run()
            if self.device.type == "cuda":
                torch.cuda.synchronize()
        except Exception as error:
            self.errors.append(f"{what}: {error!r}\n{traceback.format_exc(limit=-4)}")
            self._write()
            return False
        return True

    def add(self, rows: Sequence[Row]) -> None:
        self.rows += rows
        self._write()

    def _write(self) -> None:
        text = json.dumps({"rows": as_json(self.rows), "errors": self.errors}, allow_nan=False)
        write_atomic(self.file, text.encode())


def _race(contestants: Mapping[Name, Callable[[], object]], repeats: int, least: float) -> dict[Name, list[float]]:
    """As `timing.race`, by the clock of the GPU."""
    calls = {name: max(1, math.ceil(least / max(_seconds(run, 2), 1e-6))) for name, run in contestants.items()}
    seconds: dict[Name, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, run in contestants.items():
            seconds[name].append(_seconds(run, calls[name]))
    return seconds


def _seconds(run: Callable[[], object], calls: int) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    begin.record()
    for _ in range(calls):
        run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000 / calls


def limits(bench: Bench, when: str) -> None:
    """GB/s (read and written) of a copy, and TFLOP/s of a product of two square matrices."""
    sizes, device = bench.sizes, bench.device
    source = torch.randint(0, 255, (sizes.copied,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    contestants: dict[str, Callable[[], object]] = {COPY: partial(target.copy_, source)}
    for dtype in (torch.bfloat16, torch.float32):
        a = torch.randn(sizes.square, sizes.square, device=device).to(dtype)
        contestants[matrix(str(dtype).removeprefix("torch."))] = partial(torch.matmul, a, a, out=torch.empty_like(a))
    for name, seconds in bench.race(contestants).items():
        work, unit = (2 * sizes.copied / 1e9, "GB/s") if name == COPY else (2 * sizes.square**3 / 1e12, "TFLOP/s")
        bench.add([measured(LIMITS, {"limit": name, "when": when}, unit, [work / one for one in seconds])])
