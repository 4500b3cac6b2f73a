"""The GPU report: targets are judged by rows, a failure costs its own part alone, and all of it runs dry on a CPU."""

import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from recipes import gpu_report, gpu_report_kernels, gpu_report_models, results
from recipes.benchmark.rows import Row, measured
from recipes.gpu_report import Report, main, parts
from recipes.gpu_report_bench import COPY, DRY, FULL, Bench, matrix
from recipes.gpu_report_targets import section, targets
from wavenet.training.trainer import Trainer

Facts = dict[str, Any]


def row(value: float, **labels: str) -> Row:
    return measured("GPU student", labels, "samples/s", [value])


def judged(rows: list[Row], name: str) -> Facts:
    (target,) = (target for target in targets(FULL) if name in target.name)
    return target.judged(rows)


def test_a_target_is_a_ratio_of_two_rows_of_one_run() -> None:
    labels = {"preset": "paper", "utterances": "16 x 10 s", "noise": "given"}
    ours, theirs = row(30.0, way="ours", **labels), row(15.0, way="torch.compile", **labels)
    assert judged([ours, theirs], "16 x 10 s: over torch.compile")["verdict"] == "met"
    assert judged([theirs, ours], "16 x 10 s: over torch.compile")["reached"] == 2.0
    slow = row(22.0, way="ours", **labels)
    assert judged([slow, theirs], "16 x 10 s: over torch.compile")["verdict"] == "not met"
    assert judged([ours], "16 x 10 s: over torch.compile")["verdict"] == "not yet measured"


def test_of_two_times_ours_is_below_the_line() -> None:
    labels = {"op": "gated_activation", "pass": "forward, backward", "dtype": "bfloat16"}
    rows = [row(2.0, way="ours", **labels), row(3.0, way="torch.compile", **labels)]
    assert judged(rows, "torch.compile's time over ours")["reached"] == 1.5


def test_a_share_is_of_the_copy_measured_in_the_same_run() -> None:
    labels = {"op": "gated_activation", "pass": "forward, backward", "dtype": "bfloat16", "way": "ours"}
    gate = measured("GPU kernels", labels, "ms", [1.0], limit=COPY, reached=3000.0)
    copies = [measured("limits", {"limit": COPY, "when": when}, "GB/s", [4000.0]) for when in ("before", "after")]
    assert judged([gate, *copies], "share of the copy limit") == {
        "target": "gated activation, forward and backward: share of the copy limit",
        "least": 0.7,
        "reached": 0.75,
        "verdict": "met",
    }


def test_every_target_has_a_part_that_measures_it() -> None:
    """Of the sizes of both runs; names say how much is asked for."""
    for sizes in (FULL, DRY):
        found = targets(sizes)
        assert len({target.name for target in found}) == len(found) == 9 + len(sizes.training)
    assert parts(False, ["student", "training"]) == [
        *("limits before", "student paper", "student fast", "training 0", "training 1", "training 2", "limits after")
    ]


def test_a_layer_is_held_against_both_limits() -> None:
    one = measured("GPU kernels", {}, "ms", [1.0])
    gpu_report_kernels._hold_against_limits(one, gpu_report_kernels.Work(gigabytes=2.0, tera=0.5), 0.001, "bfloat16")
    assert (one.limit, one.reached, one.also) == (COPY, 2000.0, {matrix("bfloat16"): 500.0})
    assert (one.figures["GB/s"], one.figures["TFLOP/s"]) == (2000.0, 500.0)


def test_the_memory_of_a_way_to_train_is_measured_while_no_other_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there: weakref.WeakSet[Trainer] = weakref.WeakSet()
    alone: list[int] = []
    make = gpu_report_models._trainer

    def trainer(*arguments: Any) -> Trainer:
        there.add(made := make(*arguments))
        return made

    def peak(bench: Bench, step: Callable[[], object]) -> float:
        alone.append(len(there))
        return 0.0

    monkeypatch.setattr(gpu_report_models, "_trainer", trainer)
    monkeypatch.setattr(gpu_report_models, "_peak", peak)
    bench = Bench(tmp_path / "part.json", dry=True)
    gpu_report_models.training(bench, bench.sizes.training[0])
    assert alone == [1, 1] and not bench.errors
    assert [one.labels["way"] for one in bench.rows] == ["ours", "eager"]


def test_who_fails_is_noted_and_left_out(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "part.json", dry=True)

    def fail() -> None:
        raise RuntimeError("struck by lightning")

    assert list(bench.race({"one": fail, "other": lambda: None})) == ["other"]
    (error,) = json.loads((tmp_path / "part.json").read_text())["errors"]
    assert "lightning" in error and "one" in error


def test_a_part_that_dies_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it had measured stays; so does what comes after it."""

    def run(command: list[str], seconds: float, interpret: bool = False) -> tuple[int, str]:
        part, file = command[3:5]
        bench = Bench(Path(file), dry=True)
        bench.add([row(1.0, of=part)])
        return (-11, "Segmentation fault") if part == "teacher" else (0, "")

    monkeypatch.setattr(gpu_report, "_run", run)
    with pytest.raises(typer.Exit) as ended:
        main(tmp_path, only="teacher", dry=True, commit="abc1234")
    assert ended.value.exit_code == 1
    facts = json.loads((tmp_path / "gpu.json").read_text())
    assert [one["labels"]["of"] for one in facts["rows"]] == ["limits before", "teacher", "limits after"]
    assert "Segmentation fault" in facts["errors"][0]
    assert facts["provenance"]["commit"] == "abc1234"
    assert "Segmentation fault" in (tmp_path / "gpu.md").read_text()


def test_a_part_without_end_is_ended() -> None:
    code, text = gpu_report._run(["sh", "-c", "echo begun; sleep 60 & wait"], 1.0)
    assert code == 124
    assert "begun" in text and "no end after 1 s" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_there_is_no_report(tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match="no NVIDIA GPU here: add --dry"):
        main(tmp_path)


def test_an_unknown_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match="speed: choose among tests, kernels"):
        main(tmp_path, only="speed,kernels", dry=True)


def test_what_is_not_measured_says_so() -> None:
    text = section(None)
    assert text.count("not yet measured") == 1 + len(targets(FULL))
    assert "python -m recipes.gpu_report" in text


def test_a_dry_run_is_no_figure_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = Report(tmp_path / "run", dry=True, commit="")
    report._write()
    monkeypatch.setattr(results, "HOME", tmp_path / "results")
    with pytest.raises(ValueError, match="dry run"):
        results.publish([f"gpu={tmp_path / 'run'}"])
    assert not list((tmp_path / "results").glob("**/*.json"))


@pytest.mark.slow
def test_all_of_it_runs_dry(tmp_path: Path) -> None:
    main(tmp_path, dry=True)
    facts = json.loads((tmp_path / "gpu.json").read_text())
    assert facts["dry"] and not facts["errors"]
    assert [run["exit"] for run in facts["tests"]] == [0, 0]
    assert "passed" in facts["tests"][1]["says"]
    assert all(one["reached"] > 0 and one["verdict"] != "not yet measured" for one in facts["targets"])
    assert len(facts["targets"]) == len(targets(DRY))
    groups = {one["group"] for one in facts["rows"]}
    assert groups == {"limits", "GPU kernels", "GPU student", "GPU sequential teacher", "GPU training"}
    assert {one["path"] for one in facts["rows"] if one["group"] == "GPU kernels"} == {
        *("triton, interpreted", "reference", "aot_eager")
    }
    assert all(one["low"] <= one["value"] <= one["high"] for one in facts["rows"])
    assert "no figure here is one" in (tmp_path / "gpu.md").read_text()
