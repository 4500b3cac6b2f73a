"""Clocks and scales: repetitions that take turns, and the memory of this process."""

import ctypes
import ctypes.util
import math
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

Name = TypeVar("Name")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of mallopt(3)


def seconds_of(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def race(contestants: Mapping[Name, Callable[[], object]], repeats: int, least: float) -> dict[Name, list[float]]:
    """Seconds a call, one figure a repetition. Contestants take turns, so that a drift of the machine meets them all.

    Args:
        least: seconds that a repetition lasts; short calls are repeated within it. 0: one call.
    """
    calls: dict[Name, int] = {}
    for name, run in contestants.items():
        run()  # compiles, allocates, warms up
        calls[name] = max(1, math.ceil(least / max(seconds_of(run), 1e-6))) if least else 1
    seconds: dict[Name, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, run in contestants.items():
            started = time.perf_counter()
            for _ in range(calls[name]):
                run()
            seconds[name].append((time.perf_counter() - started) / calls[name])
    return seconds


def keep_memory() -> None:
    """From now on, memory that is freed stays with this process.

    glibc gives large blocks back at once, so that every large output is paid for page by page, which takes longer than
    many a kernel that fills it. Without glibc nothing happens.
    """
    library = ctypes.util.find_library("c")
    mallopt = getattr(ctypes.CDLL(library), "mallopt", None) if library else None
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 2**30)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """torch, and the kernels that ask it, compute on so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def memory(now: str) -> float | None:
    """Of this process, in MB: "VmRSS" now, "VmHWM" at its most so far; None where the system does not tell."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    lines = [line for line in status.read_text().splitlines() if line.startswith(f"{now}:")]
    return int(lines[0].split()[1]) / 1024 if lines else None


def forget_peak() -> bool:
    """The most that this process occupies, "VmHWM", is counted anew from here; False where the system cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_memory() -> float:
    """The most MB that this process has occupied. Linux' getrusage would count the process that started it as well."""
    most = memory("VmHWM")
    if most is not None:
        return most
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes on macOS, elsewhere kB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
