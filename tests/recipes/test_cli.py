"""The command: its help, its exit codes, and how it says what went wrong."""

import errno
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

import data.audio
import recipes.train_teacher
from distill.correction import ROUNDS
from recipes.cli import app
from wavenet.training.trainer import TrainingDiverged

Finished = subprocess.CompletedProcess[str]
COMMANDS = ["prepare", "train", "train-classifier", "distill", "synthesize", "evaluate", "benchmark", "serve"]


def examples(command: str) -> list[list[str]]:
    """The arguments of every example at the end of a command's help."""
    epilog = get_command(app).commands[command].epilog
    return [shlex.split(line) for line in re.findall(r"wavenet ([^;]+)", epilog)]


def test_the_help_lists_every_command_without_loading_torch() -> None:
    code = "import sys; from recipes.cli import main; sys.argv = ['wavenet', '--help']\n"
    code += "try: main()\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(command in done.stdout for command in COMMANDS)
    assert done.stdout.endswith("False\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_has_an_example(command: str, wavenet: Callable[..., Finished]) -> None:
    done = wavenet(command, "--help")
    assert done.returncode == 0
    assert "Example" in done.stdout
    assert all(example[0] == command for example in examples(command))


@pytest.mark.parametrize("command", ["prepare", "train", "train-classifier", "distill"])
def test_the_examples_of_hydra_commands_compose(command: str, wavenet: Callable[..., Finished]) -> None:
    for example in examples(command):
        done = wavenet(*example, "--cfg", "job")
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["synthesize", "evaluate", "benchmark", "serve"])
def test_the_flags_in_examples_exist(command: str, wavenet: Callable[..., Finished]) -> None:
    known = wavenet(command, "--help").stdout
    for example in examples(command):
        assert all(word in known for word in example if word.startswith("--"))


@pytest.mark.parametrize(
    ("arguments", "field", "value"),
    [
        (["prepare", "mel=24k"], ["mel", "n_mels"], 100),
        (["train", "data=x", "teacher=paper", "trainer.steps=7"], ["teacher", "stack", "residual"], 512),
        (["distill", "data=x", "teacher_checkpoint=y", "run=z"], ["trainer", "run"], "z"),
    ],
)
def test_cfg_job_prints_the_configuration_and_does_nothing(
    arguments: list[str],
    field: list[str],
    value: object,
    wavenet: Callable[..., Finished],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = wavenet(*arguments, "--cfg", "job")
    assert done.returncode == 0
    found = yaml.safe_load(done.stdout)
    for name in field:
        found = found[name]
    assert found == value
    assert list(tmp_path.iterdir()) == []


def test_the_prepared_corpus_is_reported(
    wavenet: Callable[..., Finished], toy_recordings: Callable[[list[str]], Path], tmp_path: Path
) -> None:
    """The good files of a folder are prepared, the bad ones named."""
    root = toy_recordings(["one"])
    (root / "broken.wav").write_bytes(b"no sound")
    small = ["mel=16k", "mel.n_mels=10", "mel.n_fft=256", "mel.win_length=256", "mel.hop_length=64"]
    done = wavenet("prepare", "corpus=folder", f"corpus.root={root}", f"out={tmp_path}", "workers=0", *small)
    assert done.returncode == 0, done.stderr
    assert "10 utterances (8 train, 1 valid, 1 test)" in done.stdout
    assert "resampled 8000 -> 16000 Hz: 10 utterances" in done.stdout
    assert "skipped 1" in done.stdout
    assert "broken" in done.stdout
    assert json.loads((tmp_path / "corpus.json").read_text())["mel"]["n_mels"] == 10


def test_a_full_disk_is_a_failure_of_the_machine(
    wavenet: Callable[..., Finished],
    toy_corpus: Path,
    toy_student: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    recordings = json.loads((toy_corpus / "settings.json").read_text())["corpus"]["root"]
    monkeypatch.setattr(data.audio, "write_atomic", full)
    done = wavenet("synthesize", Path(recordings) / "clip0.wav", "--checkpoint", toy_student, "--out", tmp_path / "out")
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "clip0.wav" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("fault", [TrainingDiverged("the loss was not finite"), MemoryError("too little")])
def test_a_failure_is_1(wavenet: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch, fault: Exception) -> None:
    def fail(config: object) -> bool:
        raise fault

    monkeypatch.setattr(recipes.train_teacher, "train", fail)
    done = wavenet("train", "data=x")
    assert done.returncode == 1
    assert str(fault) in done.stderr


def test_a_run_that_a_signal_ended_early_is_1(
    wavenet: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipes.train_teacher, "train", lambda config: False)
    assert wavenet("train", "data=x").returncode == 1


def test_the_origin_of_an_error_is_shown_on_demand(
    wavenet: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAVENET_DEBUG", "1")
    with pytest.raises(ValueError, match="giant"):
        wavenet("train", "data=x", "teacher=giant")


@pytest.mark.parametrize("command", ["synthesize", "evaluate", "serve"])
def test_the_correction_is_as_long_as_that_of_a_vocoder(command: str) -> None:
    (rounds,) = (option for option in get_command(app).commands[command].params if option.name == "rounds")
    assert rounds.default == ROUNDS
