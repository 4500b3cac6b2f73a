"""`wavenet benchmark` without checkpoints, on tiny networks: everything runs, and what is done is kept."""

import json
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import matplotlib.image
import pytest
import torch

from recipes.benchmark import limits as machine
from recipes.benchmark import suite
from recipes.benchmark.limits import limits
from recipes.benchmark.rows import Row
from recipes.benchmark.startup import startup
from recipes.benchmark.student import student
from wavenet.kernels import Backend, native

Finished = subprocess.CompletedProcess[str]


def summed(labels: dict[str, str]) -> list[int]:
    """Over how many numbers the products of the tiny kernels and the tiny student sum: 16 channels, or samples."""
    if labels.get("op") == "residual_layer":
        return [16] if labels["pass"] == "forward" else [16, 1]
    return [16] if "preset" in labels else []


def test_every_group_is_measured_and_written(wavenet: Callable[..., Finished], tmp_path: Path) -> None:
    groups = "kernels,teacher,student,stream,training"
    threads = torch.get_num_threads()
    done = wavenet("benchmark", "--quick", "--threads", 1, "--only", groups, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert torch.get_num_threads() == threads
    results = json.loads((tmp_path / "benchmark.json").read_text())
    rows = results["rows"]
    assert dict.fromkeys(row["group"] for row in rows).keys() == {"limits", "shares", *groups.split(",")}
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)
    assert all(row["value"] > 0 for row in rows if row["group"] != "shares")
    assert (rows[0]["labels"]["when"], rows[-1]["labels"]["when"]) == ("before", "after")
    assert all(row["of_limit"] > 0 for row in rows if row["limit"])
    compared = [row for row in rows if row["group"] in ("kernels", "student")]
    for row in compared:
        half, native_ran = row["labels"]["dtype"] == "bfloat16", row["labels"]["backend"] == "native"
        assert row["path"] == (native.path(half, *summed(row["labels"])) if native_ran else "")
    assert {row["labels"]["backend"] for row in compared} == {"native", "reference"}
    assert results["threads"] == 1 and results["quick"]
    assert results["provenance"]["command"].startswith("wavenet benchmark --quick")
    for group in groups.split(","):
        assert f"\n{group}, " in done.stdout
    assert "HiFi-GAN V2" in done.stdout
    for picture in ("lengths.png", "shares.png"):
        assert matplotlib.image.imread(tmp_path / picture)[..., :3].std() > 0.05


def test_what_is_done_is_kept_when_the_rest_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[Row]:
        raise RuntimeError("struck by lightning")

    monkeypatch.setattr(suite, "_jobs", lambda *_: [fail])
    with pytest.raises(RuntimeError, match="lightning"):
        suite.run_suite(tmp_path, "kernels", threads=1, quick=True)
    rows = json.loads((tmp_path / "benchmark.json").read_text())["rows"]
    assert [row["group"] for row in rows] == ["limits"] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["benchmark.json"]


def test_a_job_in_a_process_of_its_own_computes_on_the_threads_asked_for_and_knows_its_memory() -> None:
    ballast = torch.ones(2**27)  # 512 MB of this process, which are none of the job's
    rows = suite._apart(partial(student, "tiny", Backend.reference, "float32", 3, True), threads=3)
    del ballast
    speeds = [row for row in rows if row.group == "student"]
    assert [row.labels["audio"] for row in speeds] == ["0.02 s", "0.05 s"]
    assert all(0 <= row.figures["memory (MB)"] < 200 for row in speeds)
    assert speeds[0].limit == "matrix product, float32, 3 threads"


@pytest.mark.parametrize(("seconds", "rows"), [(0.0, 700), (0.09, 700), (0.1, 256), (30.0, 256)])
def test_a_limit_is_of_a_matrix_that_the_machine_multiplies_in_time(
    seconds: float, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "seconds_of", lambda run: seconds)
    assert machine._matrix(torch.bfloat16, 700).shape == (rows, rows)
    assert machine._matrix(torch.float32, 64).shape == (64, 64)


def test_limits_are_measured_on_one_thread_and_on_all() -> None:
    names = [row.labels["limit"] for row in limits(2, quick=True, when="before")]
    assert len(names) == 6
    assert sum("1 thread" in name for name in names) == sum("2 threads" in name for name in names) == 3


@pytest.mark.slow
def test_the_first_second_of_audio_of_a_fresh_process_with_and_without_built_kernels() -> None:
    cached, built = startup("tiny", threads=1, quick=True)
    for row in (cached, built):
        assert sum(row.figures.values()) <= row.value
    assert built.figures["first second (s)"] > cached.figures["first second (s)"]  # a compiler has run


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ("--only kernels,speed", "choose among kernels, teacher"),
        ("--only kernels --threads 0", "--threads is 0"),
        ("--out {file}", "is no folder"),
        ("--seconds 3", "--seconds is for checkpoints"),
        ("--teacher somewhere", "one checkpoint alone"),
        ("--teacher a --student b --only kernels", "--only is for a benchmark without"),
    ],
)
def test_bad_arguments_are_refused(arguments: str, why: str, wavenet: Callable[..., Finished], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = wavenet("benchmark", "--quick", *arguments.format(file=tmp_path / "file").split())
    assert done.returncode == 2
    assert why in done.stderr
