"""`wavenet benchmark` without checkpoints: all that has a speed, in one run, beside the limits of the machine.

Geometry: 22.05 kHz, mel of 80 bands, hop 256, batch 1 unless said, random weights. Figures are medians with their
extremes; what is to be compared takes turns. Every job runs in a process of its own, so that none inherits the memory,
or the caches, of another.
"""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from recipes.benchmark import kernels, limits, startup, stream, student, teacher, training
from recipes.benchmark.presets import MEL, backends
from recipes.benchmark.rows import Row, as_json
from recipes.benchmark.tables import draw
from recipes.benchmark.timing import using_threads
from recipes.configuration import ConfigError
from recipes.outputs import check_writable
from recipes.provenance import write_results

Job = Callable[[], list[Row]]
GROUPS = ("kernels", "teacher", "student", "stream", "training", "startup")


def run_suite(out: Path, only: str = "", threads: int | None = None, quick: bool = False) -> list[Row]:
    """Measure and write benchmark.json, as it grows, and pictures to `out`.

    Args:
        only: groups, with commas between; all of them by default.
        threads: torch's own number by default, all cores.
        quick: tiny networks for a blink, in this process: shows that everything runs, and no speed.

    Raises:
        ConfigError: an unknown group, or no thread.
        OutputError: `out` cannot be written.
    """
    chosen = [name.strip() for name in only.split(",")] if only else GROUPS
    if unknown := [name for name in chosen if name not in GROUPS]:
        raise ConfigError(f"--only names {', '.join(unknown)}: choose among {', '.join(GROUPS)}, with commas between")
    threads = torch.get_num_threads() if threads is None else threads
    if threads < 1:
        raise ConfigError(f"--threads is {threads}: compute on one thread or more")
    check_writable(out)
    jobs = [job for name in GROUPS if name in chosen for job in _jobs(name, threads, quick)]
    jobs = [partial(limits.limits, threads, quick, "before"), *jobs, partial(limits.limits, threads, quick, "after")]
    rows: list[Row] = []
    with using_threads(threads):
        for job in tqdm(jobs, desc="benchmark", unit="job"):
            rows += job() if quick else _apart(job, threads)
            facts = {"threads": threads, "quick": quick, "sample_rate": MEL.sample_rate, "rows": as_json(rows)}
            write_results(out / "benchmark.json", "cpu", facts)
    draw(out, rows)
    return rows


def _jobs(group: str, threads: int, quick: bool) -> list[Job]:
    match group:
        case "kernels":
            return [partial(run, threads, quick) for run in (kernels.gates, kernels.layers, kernels.mixtures)]
        case "teacher":
            return [partial(teacher.teacher, preset, threads, quick) for preset in teacher.presets(quick)]
        case "student":
            return [
                partial(student.student, preset, backend, dtype, threads, quick)
                for preset in student.presets(quick)
                for dtype in ("bfloat16", "float32")
                for backend in reversed(backends())
            ]
        case "stream":
            pairs = [(preset, dtype) for preset in student.presets(quick) for dtype in ("bfloat16", "float32")]
            return [partial(stream.stream, preset, dtype, threads, quick) for preset, dtype in pairs]
        case "training":
            return [partial(training.training, task, threads, quick) for task in training.FULL.cases]
        case _:
            return [partial(startup.startup, "tiny" if quick else "paper", threads, quick)]


def _apart(job: Job, threads: int) -> list[Row]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=torch.set_num_threads, initargs=(threads,)) as process:
        return process.submit(job).result()
