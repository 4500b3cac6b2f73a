"""The whole chain as a user runs it, at toy size: text, speech, teacher, student, speech."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

Finished = subprocess.CompletedProcess[str]

HOP, RATE = 200, 16_000  # of mel=16k
SMALL = ["trainer=tiny", "crops.frames=16", "clips=1"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def succeed(wavenet_process: Callable[..., Finished]) -> Callable[[str], Finished]:
    """Run a command line to its successful end."""

    def run(command: str) -> Finished:
        done = wavenet_process(*command.split())
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture(scope="module")
def corpus(wavenet_process: Callable[..., Finished], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few synthetic sentences of two voices, prepared."""
    out = tmp_path_factory.mktemp("chain") / "corpus"
    espeak = ["corpus=espeak", "corpus.utterances=8", "corpus.voices=[en-us,en-gb-x-rp+f3]"]
    done = wavenet_process("prepare", *espeak, "mel=16k", f"out={out}")
    assert done.returncode == 0, done.stderr
    assert "8 utterances" in done.stdout
    assert "2 speakers" in done.stdout
    assert "resampled 22050 -> 16000 Hz: 8 utterances" in done.stdout
    return out


def assert_speech(path: Path, frames: int) -> None:
    """L * hop samples, audible, and neither a constant nor clipped throughout."""
    wav, rate = soundfile.read(path)
    assert rate == RATE
    assert len(wav) == frames * HOP
    assert np.isfinite(wav).all()
    assert 1e-4 < wav.std() < 0.5
    assert (np.abs(wav) > 0.99).mean() < 0.1


@pytest.mark.parametrize("output", ["mol", "mulaw", "gaussian"])
def test_from_text_to_a_student_that_speaks(
    succeed: Callable[[str], Finished], corpus: Path, tmp_path: Path, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = f"data={corpus} {' '.join(SMALL)}"
    succeed(f"train {small} teacher=tiny output={output} mel=16k run=teacher")
    succeed(f"distill {small} student=tiny teacher_checkpoint=teacher run=student losses.kl.draws=8")
    for run, kind in (("teacher", "teacher"), ("student", "student")):
        described = json.loads(Path(run, "config.json").read_text())
        assert (described["kind"], described["step"]) == (kind, 20)
        assert described["speakers"] == ["en-gb-x-rp+f3", "en-us"]
        lines = map(json.loads, Path(run, "log.jsonl").read_text().splitlines())
        curve = [line["train/loss"] for line in lines if "train/loss" in line]
        assert len(curve) == 20
        assert np.isfinite(curve).all()

    mels = sorted((corpus / "mel").glob("*.npy"))[:2]
    frames = [np.load(mel).shape[1] for mel in mels]
    Path("mels").mkdir()
    for mel in mels:
        Path("mels", mel.name).symlink_to(mel)
    said = "synthesize mels --speaker en-us --device cpu"
    assert "2 files" in succeed(f"{said} --checkpoint student --out spoken --plot").stdout
    for mel, length in zip(mels, frames, strict=True):
        assert_speech(Path("spoken", f"{mel.stem}.wav"), length)
        assert Path("spoken", f"{mel.stem}.png").stat().st_size > 10_000
    np.save("short.npy", np.load(mels[0])[:, :20])
    succeed("synthesize short.npy --speaker en-us --checkpoint teacher --backend numba --out sampled")
    assert_speech(Path("sampled/short.wav"), 20)

    succeed(f"evaluate --checkpoint teacher --checkpoint student --data {corpus} --out judged --device cpu")
    rows = {row["name"]: row for row in json.loads(Path("judged/evaluation.json").read_text())["rows"]}
    distances = {name: row["estimates"]["log_mel_l1"]["mean"] for name, row in rows.items()}
    assert 0 < rows["teacher"]["estimates"]["bits"]["mean"] < 16
    assert 0 < distances["student"] < 10
    assert distances["original"] < distances["griffin-lim"] < distances["noise with the right envelope"]


def test_the_race_of_a_trained_pair(succeed: Callable[[str], Finished], corpus: Path, tmp_path: Path) -> None:
    small = f"data={corpus} {' '.join(SMALL)} trainer.steps=2"
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    succeed(f"train {small} teacher=tiny mel=16k run={teacher}")
    succeed(f"distill {small} student=tiny teacher_checkpoint={teacher} run={student}")
    race = f"benchmark --teacher {teacher} --student {student} --seconds 0.5 --repeats 1 --device cpu"
    done = succeed(f"{race} --out {tmp_path / 'race'}")
    results = json.loads((tmp_path / "race" / "benchmark.json").read_text())
    assert results["student_over_teacher"]["teacher, naive"] > 1
    assert "student is faster by" in done.stdout
    assert (tmp_path / "race" / "benchmark.png").stat().st_size > 10_000
