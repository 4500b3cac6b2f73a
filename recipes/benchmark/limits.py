"""What the machine can do at best: the library's matrix product, and copying memory."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from recipes.benchmark.rows import LIMITS, Row, copy_limit, matrix_limit, measured
from recipes.benchmark.timing import race, using_threads


@dataclass(frozen=True)
class Sizes:
    matrix: int  # rows and columns
    copied: int  # bytes, well beyond the caches
    repeats: int
    least: float  # seconds


FULL = Sizes(matrix=2048, copied=2**28, repeats=5, least=0.1)
QUICK = Sizes(matrix=64, copied=2**16, repeats=2, least=0.0)


def limits(threads: int, quick: bool, when: str) -> list[Row]:
    """GFLOP/s of a product of two square matrices and GB/s (read and written) of a copy, on one thread and on all."""
    sizes, rows = QUICK if quick else FULL, []
    for count in sorted({1, threads}):
        with using_threads(count):
            seconds = race(_contestants(count, sizes), sizes.repeats, sizes.least)
        for name, values in seconds.items():
            copied = name == copy_limit(count)
            work = 2 * sizes.copied if copied else 2 * sizes.matrix**3
            unit = "GB/s" if copied else "GFLOP/s"
            labels = {"limit": name, "when": when}
            rows.append(measured(LIMITS, labels, unit, [work / one / 1e9 for one in values]))
    return rows


def _contestants(threads: int, sizes: Sizes) -> dict[str, Callable[[], object]]:
    source, target = torch.ones(sizes.copied, dtype=torch.uint8), torch.empty(sizes.copied, dtype=torch.uint8)
    contestants: dict[str, Callable[[], object]] = {copy_limit(threads): partial(target.copy_, source)}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.randn(sizes.matrix, sizes.matrix).to(dtype)
        contestants[matrix_limit(str(dtype).removeprefix("torch."), threads)] = partial(torch.matmul, a, a)
    return contestants
