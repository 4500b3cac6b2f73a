"""One part of a GPU report, in a process of its own: `python -m recipes.gpu_report_part PART FILE [dry]`."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from recipes.gpu_report_bench import Bench, limits


def measure(part: str, bench: Bench) -> None:
    """One part, in this process, into `bench.file`."""
    name, _, what = part.partition(" ")
    if name == "limits":
        limits(bench, what)
    elif name == "kernels":
        from recipes.gpu_report_kernels import kernels

        kernels(bench)
    else:
        from recipes import gpu_report_models as models

        jobs: dict[str, Callable[[], None]] = {
            "student": partial(models.student, bench, what),
            "teacher": partial(models.teacher, bench),
            "training": lambda: models.training(bench, bench.sizes.training[int(what)]),
        }
        jobs[name]()


if __name__ == "__main__":
    measure(sys.argv[1], Bench(Path(sys.argv[2]), dry="dry" in sys.argv[3:]))
