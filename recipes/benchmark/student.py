"""The student, mel in and samples out: preset x dtype x backend x length, with its memory.

`native` goes tile by tile (`distill.stream`); `reference` is one pass of torch's operators.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from torch import Tensor

from distill.student import Student
from recipes.benchmark.flops import student_flops
from recipes.benchmark.presets import MEL, constant_mel, frames_of, random_student
from recipes.benchmark.rows import Row, matrix_limit, measured
from recipes.benchmark.shares import shares
from recipes.benchmark.timing import forget_peak, memory, seconds_of
from wavenet.kernels import Backend, native, use_backend
from wavenet.metrics import real_time_factor

GROUP, UNIT = "student", "samples/s"

# Seconds of audio -> repetitions. Ten minutes of the largest and the smallest preset in bfloat16: the others take the
# same way through the memory, and minutes of computing.
Lengths = Mapping[float, int]
FULL: dict[tuple[Backend, str], Lengths] = {
    (Backend.native, "bfloat16"): {1: 7, 10: 5, 60: 2},
    (Backend.native, "float32"): {1: 5, 10: 3, 60: 1},
    (Backend.reference, "bfloat16"): {1: 3, 10: 2},
    (Backend.reference, "float32"): {1: 3, 10: 2},
}
LONGEST: dict[tuple[str, Backend, str], Lengths] = {
    (preset, Backend.native, "bfloat16"): {600: 1} for preset in ("paper", "fast")
}
QUICK: Lengths = {0.02: 2, 0.05: 1}


@dataclass
class Timing:
    """Of one length: seconds of every repetition, and MB at most beyond weights, mel and output.

    What an earlier call left behind counts too: the process holds it while it speaks. None where the system does not
    tell, or cannot forget what came before.
    """

    seconds: list[float]
    memory: float | None


def student(preset: str, backend: Backend, dtype: str, threads: int, quick: bool) -> list[Row]:
    """Samples a second; run it in a process of its own, or the memory is that of others too."""
    lengths = QUICK if quick else dict(FULL[backend, dtype]) | dict(LONGEST.get((preset, backend, dtype), {}))
    model = random_student(preset, teacher="tiny" if quick else "small")
    flops = student_flops(model.config)
    widths = (width for stack in model.config.stacks() for width in (stack.residual, stack.gate // 2))
    path = native.path(dtype == "bfloat16", *widths) if backend is Backend.native else ""
    timings = _time(model, backend, dtype, lengths)
    rows, shortest = [], min(timings)
    pace = median(timings[shortest].seconds) / _samples(shortest)
    for length, timing in timings.items():
        T = _samples(length)
        labels = {"preset": preset, "dtype": dtype, "backend": backend, "audio": f"{length:g} s"}
        row = measured(GROUP, labels, UNIT, [T / one for one in timing.seconds], path=path)
        row.limit, row.reached = matrix_limit(dtype, threads), row.value * flops / 1e9
        row.figures["x real time"] = real_time_factor(T, T / row.value, MEL.sample_rate)
        row.figures["time a sample / that of the shortest"] = median(timing.seconds) / T / pace
        if timing.memory is not None:
            row.figures["memory (MB)"] = timing.memory
        rows.append(row)
    if preset != presets(quick)[0] or dtype != "bfloat16":
        return rows
    mel = constant_mel(1, frames_of(min(1.0, max(lengths))))
    return rows + shares(f"{preset} student, {dtype}, {backend}", partial(_speak, model, backend, dtype, mel))


def _time(model: Student, backend: Backend, dtype: str, lengths: Lengths) -> dict[float, Timing]:
    """Lengths take turns, the first time in ascending order: a later peak is then never that of an earlier length."""
    before = memory("VmRSS") if forget_peak() else None
    _speak(model, backend, dtype, constant_mel(1, 1))  # starts the threads
    timings: dict[float, Timing] = {}
    for turn in range(max(lengths.values())):
        for length in sorted(length for length, repeats in lengths.items() if turn < repeats):
            mel = constant_mel(1, frames_of(length))
            seconds = seconds_of(partial(_speak, model, backend, dtype, mel))
            if turn:
                timings[length].seconds.append(seconds)
                continue
            most, given = memory("VmHWM"), 4 * (mel.numel() + _samples(length)) / 2**20
            beyond = None if before is None or most is None else max(0.0, most - before - given)
            timings[length] = Timing([seconds], beyond)
    return timings


def _speak(model: Student, backend: Backend, dtype: str, mel: Tensor) -> None:
    with use_backend(backend), torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
        model.generate(mel)


def _samples(seconds: float) -> int:
    return frames_of(seconds) * MEL.hop_length


def presets(quick: bool) -> Sequence[str]:
    return ["tiny"] if quick else ["paper", "small", "fast"]
