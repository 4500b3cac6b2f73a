"""The recipes of the corpora, all stages at toy size, on small folders laid out like these corpora."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from data.audio import resample
from data.espeak import speak
from data.sentences import sentences

RECIPES = Path(__file__).parents[2] / "recipes"
TOY = {"TEACHER_SIZE": "tiny", "STUDENT_SIZE": "tiny", "TRAINER": "tiny", "CLIPS": "1"}


def _write(path: Path, text: str, voice: str, rate: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    wav, own_rate = speak(text, voice)
    soundfile.write(path, resample(wav, own_rate, rate), rate)


def _ljspeech(root: Path, texts: list[str]) -> dict[str, str]:
    lines = []
    for n, text in enumerate(texts):
        _write(root / "LJSpeech-1.1" / "wavs" / f"LJ001-{n:04}.wav", text, "en-us+f2", 22050)
        lines.append(f"LJ001-{n:04}|{text}|{text}\n")
    (root / "LJSpeech-1.1" / "metadata.csv").write_text("".join(lines))
    return {"CORPORA": str(root)}


def _vctk(root: Path, texts: list[str]) -> dict[str, str]:
    home = root / "VCTK-Corpus-0.92"
    for speaker, voice in (("p225", "en-gb-x-rp"), ("p226", "en-gb-x-rp+m3")):
        for n, text in enumerate(texts[:5]):
            name = f"{speaker}_{n:03}"
            _write(home / "wav48_silence_trimmed" / speaker / f"{name}_mic1.flac", text, voice, 48000)
            transcript = home / "txt" / speaker / f"{name}.txt"
            transcript.parent.mkdir(parents=True, exist_ok=True)
            transcript.write_text(text + "\n")
    return {"CORPORA": str(root)}


def _kathleen(root: Path, texts: list[str]) -> dict[str, str]:
    rows = ["id|text|speaker|seconds\n"]
    for n, text in enumerate(texts):
        _write(root / f"{n}.flac", text, "en-us+f2", 22050)
        rows.append(f"{n}|{text}|kathleen|1\n")
    (root / "metadata.csv").write_text("".join(rows))
    return {"KATHLEEN": str(root)}


def _run(corpus: str, *stages: str, **variables: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", RECIPES / corpus / "run.sh", *stages],
        env={**os.environ, **variables, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("corpus", "lay_out"), [("ljspeech", _ljspeech), ("vctk", _vctk), ("kathleen", _kathleen)])
def test_a_recipe_goes_from_sound_files_to_figures(tmp_path: Path, corpus: str, lay_out: object) -> None:
    assert callable(lay_out)
    variables = {**TOY, **lay_out(tmp_path / "corpus", sentences(10, seed=0)), "OUT": str(tmp_path / "out")}
    done = _run(corpus, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "out" / "evaluation" / "evaluation.json").read_text())["rows"]
    assert {"teacher", "student"} <= {Path(row["name"]).name for row in rows}
    assert json.loads((tmp_path / "out" / "student" / "config.json").read_text())["model"]["pitch"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_gpus_half_hour_goes_in_pieces_on_different_machines(tmp_path: Path) -> None:
    variables = _kathleen(tmp_path / "corpus", sentences(10, seed=0))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    toy = {**TOY, "BATCH": "2", "WORKERS": "0", "TEACHER_SECONDS": "20", "STUDENT_SECONDS": "25", "SPECTRAL_STEPS": "2"}
    codes = []
    for machine in range(4):
        done = subprocess.run(
            ["bash", RECIPES / "kathleen" / "train_gpu.sh", variables["KATHLEEN"], tmp_path / "state", "40"],
            env={**os.environ, **toy, "PATH": path, "WORK": str(tmp_path / f"machine{machine}")},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        codes.append(done.returncode)
        assert done.returncode in (0, 3), done.stdout + done.stderr
        assert all(part.stat().st_size < 16e6 for part in (tmp_path / "state").iterdir())
        if done.returncode == 0:
            break
    assert codes[0] == 3 and codes[-1] == 0
    assert (tmp_path / f"machine{len(codes) - 1}" / "student" / "model.safetensors").exists()


def test_stages_that_are_not_there_are_refused() -> None:
    done = _run("kathleen", "4", "2", KATHLEEN="recordings")
    assert done.returncode == 2
    assert "FIRST" in done.stderr


def test_a_recipe_without_its_recordings_says_what_to_set() -> None:
    done = _run("kathleen", KATHLEEN="")
    assert done.returncode != 0
    assert "KATHLEEN=DIR" in done.stderr
