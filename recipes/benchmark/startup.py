"""From the shell to the first second of audio, in a fresh process."""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median

from recipes.benchmark.presets import LEVEL, MEL, frames_of, random_student
from recipes.benchmark.rows import Row, measured
from wavenet.checkpoint import Description, save_description, save_weights

GROUP = "start-up"
PROGRAM = """
import json, sys, time
clock = [time.perf_counter()]
import torch
from serve import Vocoder
clock.append(time.perf_counter())
vocoder = Vocoder.from_pretrained(sys.argv[1], device="cpu", dtype=sys.argv[2])
clock.append(time.perf_counter())
vocoder(torch.full((int(sys.argv[3]), int(sys.argv[4])), float(sys.argv[5])))
clock.append(time.perf_counter())
print(json.dumps([after - before for before, after in zip(clock[:-1], clock[1:])]))
"""
PARTS = ("import (s)", "load (s)", "first second (s)")


def startup(preset: str, threads: int, quick: bool) -> list[Row]:
    """Seconds of the whole process, and of its parts: with the kernels cached, and once where they must be built."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = Path(scratch) / "student"
        _save(preset, checkpoint)
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        empty = {**environment, "XDG_CACHE_HOME": str(Path(scratch) / "cache")}
        for kernels, variables, repeats in (("cached", environment, 1 if quick else 3), ("to be built", empty, 1)):
            runs = [_speak(checkpoint, variables) for _ in range(repeats)]
            labels = {"preset": preset, "dtype": "bfloat16", "kernels": kernels}
            row = measured(GROUP, labels, "s", [whole for whole, _ in runs])
            row.figures = {name: median(parts[n] for _, parts in runs) for n, name in enumerate(PARTS)}
            rows.append(row)
    return rows


def _save(preset: str, checkpoint: Path) -> None:
    model = random_student(preset)
    checkpoint.mkdir()
    save_weights(checkpoint, model.state_dict())
    save_description(checkpoint, Description(kind="student", model=asdict(model.config), mel=asdict(MEL), gain=1.0))


def _speak(checkpoint: Path, environment: dict[str, str]) -> tuple[float, list[float]]:
    """Seconds of the process, and of importing, loading and speaking for a second within it."""
    arguments = [str(checkpoint), "bfloat16", str(MEL.n_mels), str(frames_of(1.0)), str(LEVEL)]
    command = [sys.executable, "-c", PROGRAM, *arguments]
    started = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    whole = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"a fresh process could not speak: {done.stderr[-500:]}")
    return whole, json.loads(done.stdout)
