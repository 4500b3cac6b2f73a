"""Whatever happens to a run, the same command goes on as if nothing had happened."""

import errno
import random
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from wavenet.checkpoint import CheckpointError, load_description, load_weights

STEPS = 60
Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def whole(toy: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    run: Path = tmp_path_factory.mktemp("whole") / "run"
    toy.trainer(run, toy.Regression(), steps=STEPS).run()
    return run


def assert_equal_runs(one: Path, other: Path) -> None:
    """The same curves, and the same averaged and raw weights, to the last bit."""
    for name in ("log.jsonl", "model.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    states = [torch.load(run / "trainer.pt", weights_only=True) for run in (one, other)]
    for name, tensor in states[0]["model"].items():
        assert torch.equal(tensor, states[1]["model"][name])


def test_a_run_killed_amid_every_kind_of_write_is_the_uninterrupted_run(
    whole: Path, run_toy: Run, tmp_path: Path
) -> None:
    """The first write of all, each of the three files of a checkpoint, and the rewriting of log.jsonl on resuming."""
    run = tmp_path / "run"
    for moment in ("trainer.pt:1", "model.safetensors:1", "config.json:2", "trainer.pt:3", "log.jsonl:1"):
        status, said = run_toy(run, STEPS, f"kill={moment}")
        assert status == -9, said
    status, said = run_toy(run, STEPS)
    assert status == 0, said
    assert_equal_runs(run, whole)
    assert not list(run.glob(".*.tmp"))


def test_a_run_killed_at_random_moments_is_the_uninterrupted_run(whole: Path, run_toy: Run, tmp_path: Path) -> None:
    """The moments sum to less than the time that all steps take, on a machine however fast: none comes too late."""
    run, moments = tmp_path / "run", random.Random(0)
    for _ in range(3):
        status, said = run_toy(run, STEPS, "pause=0.02", f"kill={moments.uniform(0.05, 0.4)}")
        assert status == -9, said
    status, said = run_toy(run, STEPS)
    assert status == 0, said
    assert_equal_runs(run, whole)
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, STEPS + 1))  # none twice


def test_a_disk_that_fills_up_during_a_checkpoint_is_said_and_costs_nothing(
    toy: ModuleType, run_toy: Run, tmp_path: Path
) -> None:
    """A limit on the size of a file stands in for the full disk: large enough for all files but trainer.pt."""
    quiet = {"log_every": 100, "validate_every": 0}
    run = tmp_path / "run"
    for steps in (10, 20):
        toy.trainer(tmp_path / "whole", toy.Regression(), steps=steps, **quiet).run()
    toy.trainer(run, toy.Regression(), steps=10, **quiet).run()
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    assert len(before["trainer.pt"]) > 4096 > len(before["model.safetensors"])

    limited = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, -1)); "
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    settings = [f"{name}={value}" for name, value in quiet.items()]
    program = [sys.executable, "-c", limited, toy.__file__, str(run), "20", *settings]
    outcome = subprocess.run(program, capture_output=True, text=True, check=False, timeout=120)
    assert outcome.returncode == 1
    assert "trainer.pt: File too large; free space there" in outcome.stderr
    assert (run / "trainer.pt").read_bytes() == before["trainer.pt"]
    assert not list(run.glob(".*.tmp"))

    assert run_toy(run, 20, *settings)[0] == 0
    assert_equal_runs(run, tmp_path / "whole")


def test_a_finished_run_says_so_and_does_nothing(
    toy: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    toy.trainer(tmp_path, toy.Regression(), steps=7).run()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    capfd.readouterr()
    assert toy.trainer(tmp_path, toy.Regression(), steps=7).run()
    assert "is finished: 7 steps of 7 are done" in capfd.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_run_counts_as_finished_only_when_its_weights_are_in_place(
    name: str, toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if target.name == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(self, target)

    with monkeypatch.context() as patch, pytest.raises(CheckpointError, match=f"cannot write .*{name}: No space left"):
        patch.setattr(Path, "replace", refuse)
        toy.trainer(tmp_path, toy.Regression(), steps=4).run()
    assert toy.trainer(tmp_path, toy.Regression(), steps=4).run()
    assert load_description(tmp_path).step == 4
    load_weights(tmp_path)


def test_a_finished_run_can_be_made_longer_and_its_rate_changed(toy: ModuleType, whole: Path, tmp_path: Path) -> None:
    toy.trainer(tmp_path, toy.Regression(), steps=30).run()
    toy.trainer(tmp_path, toy.Regression(), steps=STEPS).run()
    assert_equal_runs(tmp_path, whole)
    assert toy.trainer(tmp_path, toy.Regression(), steps=STEPS + 1, lr=1e-4).run()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"seed": 3}, "trainer.seed was 0 and is now 3"),
        ({"batch_size": 4}, "trainer.batch_size was 8 and is now 4"),
        ({"betas": [0.5, 0.9]}, r"optim.betas was \[0.9, 0.999\] and is now \[0.5, 0.9\]"),
    ],
)
def test_a_run_is_not_resumed_under_other_settings(
    change: dict[str, object], complaint: str, toy: ModuleType, tmp_path: Path
) -> None:
    toy.trainer(tmp_path, toy.Regression(), steps=3).run()
    with pytest.raises(CheckpointError, match=f"other settings: {complaint}; restore them .* another run directory"):
        toy.trainer(tmp_path, toy.Regression(), steps=6, **change).run()


def test_a_run_goes_on_when_its_corpus_has_been_measured_since(toy: ModuleType, tmp_path: Path) -> None:
    toy.trainer(tmp_path, toy.Regression(), steps=3).run()
    trainer = toy.trainer(tmp_path, toy.Regression(), steps=6)
    trainer.description.bands = {"mean": [-5.0], "spread": [1.0]}
    assert trainer.run()
    assert load_description(tmp_path).bands == {"mean": [-5.0], "spread": [1.0]}


def test_a_run_is_not_resumed_for_another_network(toy: ModuleType, tmp_path: Path) -> None:
    toy.trainer(tmp_path, toy.Regression(), steps=3).run()
    other = toy.trainer(tmp_path, toy.Regression(), steps=6)
    other.description.model = {"width": 32, "depth": 2}
    with pytest.raises(
        CheckpointError, match=r"model.depth was 'absent' and is now 2; model.width was 16 and is now 32"
    ):
        other.run()


def test_a_checkpoint_that_was_only_copied_is_not_overwritten(toy: ModuleType, tmp_path: Path) -> None:
    toy.trainer(tmp_path, toy.Regression(), steps=3).run()
    (tmp_path / "trainer.pt").unlink()
    with pytest.raises(CheckpointError, match=r"without trainer\.pt.*choose another run directory"):
        toy.trainer(tmp_path, toy.Regression(), steps=6).run()


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: b"nonsense", lambda data: data[:-1000]])
def test_a_damaged_trainer_state_is_refused(damage: Callable[[bytes], bytes], toy: ModuleType, tmp_path: Path) -> None:
    toy.trainer(tmp_path, toy.Regression(), steps=3).run()
    path = tmp_path / "trainer.pt"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"trainer\.pt cannot be read"):
        toy.trainer(tmp_path, toy.Regression(), steps=6).run()


def test_a_trainer_state_of_another_format_is_refused(toy: ModuleType, tmp_path: Path) -> None:
    toy.trainer(tmp_path, toy.Regression(), steps=3).run()
    path = tmp_path / "trainer.pt"
    torch.save(torch.load(path, weights_only=True) | {"format": 2}, path)
    with pytest.raises(CheckpointError, match=r"format 2.*resumes format 1"):
        toy.trainer(tmp_path, toy.Regression(), steps=6).run()


def test_a_trainer_state_runs_no_code(toy: ModuleType, tmp_path: Path) -> None:
    toy.trainer(tmp_path, toy.Regression(), steps=3).run()
    torch.save({"format": 1, "step": resource.getrusage}, tmp_path / "trainer.pt")
    with pytest.raises(CheckpointError, match=r"trainer\.pt cannot be read"):
        toy.trainer(tmp_path, toy.Regression(), steps=6).run()
