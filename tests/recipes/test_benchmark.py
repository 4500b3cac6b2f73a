"""`wavenet benchmark` of two checkpoints: how fast teacher and student are, in one run."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

Finished = subprocess.CompletedProcess[str]


def test_every_sampler_is_timed_and_the_ratios_are_those_of_the_figures(
    wavenet: Callable[..., Finished],
    toy_teacher: Path,
    toy_student: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of the samplers' processes
    ballast = np.ones(2**27)  # 1 GB of this process, which is no sampler's
    del ballast
    arguments = ["--seconds", 0.2, "--repeats", 1, "--device", "cpu", "--out", tmp_path]
    done = wavenet("benchmark", "--teacher", toy_teacher, "--student", toy_student, *arguments)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "benchmark.json").read_text())
    speeds = {one["name"]: one for one in results["samplers"]}
    *teachers, student = speeds
    assert teachers == ["teacher, naive", "teacher, cached", "teacher, numba"]
    assert student == "student, one pass, float32"
    for one in speeds.values():
        assert one["samples"] > 0
        assert one["samples_per_second"] > 0
        assert one["real_time_factor"] == pytest.approx(one["samples_per_second"] / 8000)
        assert 50 < one["peak_memory_mb"] < 1000
    assert speeds["teacher, naive"]["samples"] == 100
    assert speeds[student]["samples"] == speeds["teacher, numba"]["samples"] == 25 * 64
    ratios = results["student_over_teacher"]
    assert set(ratios) == set(teachers)
    for name, ratio in ratios.items():
        assert ratio == pytest.approx(speeds[student]["samples_per_second"] / speeds[name]["samples_per_second"])
    assert results["models"] == {"teacher": str(toy_teacher), "student": str(toy_student)}
    assert results["provenance"]["command"].startswith("wavenet benchmark")
    assert all(name in done.stdout for name in speeds)
    assert matplotlib.image.imread(tmp_path / "benchmark.png")[..., :3].std() > 0.05


def test_models_of_several_speakers_are_timed(
    make_toy_teacher: Callable[..., Path], make_toy_student: Callable[..., Path]
) -> None:
    """In this process, a frame or two each."""
    from recipes.benchmark.checkpoints import _time_student, _time_teacher
    from wavenet.sampling.generate import Backend

    duet = {"speakers": ("ada", "bob")}
    teacher = _time_teacher(make_toy_teacher("gaussian", **duet), Backend.cached, 1, 1, "cpu")
    student = _time_student(make_toy_student("gaussian", **duet), 2, 1, "cpu", "bfloat16")
    assert (teacher.samples, student.samples) == (64, 128)
    assert student.name == "student, one pass, bfloat16"
