"""The recipes of the corpora, all stages at toy size, on small folders laid out like these corpora."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from data.audio import resample
from data.espeak import speak
from data.sentences import sentences

RECIPES = Path(__file__).parents[2] / "recipes"
TOY = {"TEACHER_SIZE": "tiny", "STUDENT_SIZE": "tiny", "TRAINER": "tiny", "CLASSIFIER_TRAINER": "tiny", "CLIPS": "1"}


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


def _run(
    corpus: str, *stages: str, programs: Path = Path(sys.executable).parent, **variables: str
) -> subprocess.CompletedProcess[str]:
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
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
def test_a_gpus_half_hour_leaves_all_that_another_machine_needs(tmp_path: Path) -> None:
    recordings = _kathleen(tmp_path / "corpus", sentences(10, seed=0))["KATHLEEN"]
    programs = str(Path(sys.executable).parent)
    toy = {**TOY, "BATCH": "2", "WORKERS": "0", "SPECTRAL_STEPS": "2"}
    for machine in ("one", "two"):
        done = _piece(tmp_path, machine, programs, "600", recordings, **toy)
        assert done.returncode == 0, done.stdout + done.stderr
        assert all(part.stat().st_size < 16e6 for part in (tmp_path / "state").iterdir())
        for run in ("teacher", "student"):
            assert json.loads((tmp_path / machine / run / "config.json").read_text())["step"] == 20


def _piece(
    folder: Path, machine: str, programs: str, seconds: str, recordings: str = "recordings", **variables: str
) -> subprocess.CompletedProcess[str]:
    """A piece of train_gpu.sh from FOLDER/state, on a machine that holds nothing else."""
    return subprocess.run(
        ["bash", RECIPES / "kathleen" / "train_gpu.sh", recordings, f"{folder / 'state'}/", seconds],
        env={**os.environ, **variables, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
             "WORK": str(folder / machine)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


WAVENET = """#!/usr/bin/env bash
# Trains a step a call, and needs two; as by `timeout`, 124 says that it was ended before.
if [ "$1" = prepare ]; then exit; fi
for argument; do case $argument in run=*) run=${argument#run=} ;; esac; done
mkdir -p "$run"
echo step >>"$run/steps"
(($(wc -l <"$run/steps") >= 2)) || exit 124
"""

MV = """#!/usr/bin/env bash
# The call number KILL kills whoever calls, before it moves anything.
echo move >>"$MOVES"
if (($(wc -l <"$MOVES") == KILL)); then kill -KILL $PPID; exit; fi
exec /bin/mv "$@"
"""


@pytest.fixture
def toy_programs(tmp_path: Path) -> str:
    """`wavenet` that only counts, and `mv` that can be deadly."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name, text in (("wavenet", WAVENET), ("mv", MV)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return str(folder)


def _steps(run: Path) -> int:
    return len((run / "steps").read_text().splitlines()) if (run / "steps").exists() else 0


def test_pieces_on_different_machines_go_on_from_one_another(tmp_path: Path, toy_programs: str) -> None:
    seen = []
    for machine in range(4):
        done = _piece(tmp_path, f"machine{machine}", toy_programs, "500", MOVES=str(tmp_path / "moves"), KILL="0")
        work = tmp_path / f"machine{machine}"
        seen.append((done.returncode, _steps(work / "teacher"), _steps(work / "student")))
    assert seen == [(3, 1, 0), (3, 2, 1), (0, 2, 2), (0, 2, 2)]


@pytest.mark.parametrize("move", [1, 2, 3])
def test_a_kill_while_the_state_is_replaced_loses_one_piece_at_most(
    tmp_path: Path, toy_programs: str, move: int
) -> None:
    alive = {"MOVES": str(tmp_path / "moves"), "KILL": "0"}
    assert _piece(tmp_path, "one", toy_programs, "500", **alive).returncode == 3
    killed = _piece(tmp_path, "two", toy_programs, "500", MOVES=str(tmp_path / "kills"), KILL=str(move))
    assert killed.returncode == -signal.SIGKILL
    _piece(tmp_path, "three", toy_programs, "500", **alive)
    assert _steps(tmp_path / "three" / "teacher") == 2
    assert _steps(tmp_path / "three" / "student") >= 1
    assert {path.name for path in tmp_path.glob("state*")} == {"state"}


def test_a_piece_that_preparing_uses_up_ends_with_the_reason(tmp_path: Path, toy_programs: str) -> None:
    done = _piece(tmp_path, "one", toy_programs, "0", MOVES=str(tmp_path / "moves"), KILL="0")
    assert done.returncode == 2
    assert "preparing the data took all of the 0 s of this piece: give it more" in done.stderr


@pytest.mark.parametrize("corpus", ["ljspeech", "vctk", "kathleen"])
def test_the_classifiers_trainer_is_a_preset_of_its_own(tmp_path: Path, corpus: str) -> None:
    (tmp_path / "wavenet").write_text('#!/usr/bin/env bash\necho "$@"\n')
    (tmp_path / "wavenet").chmod(0o755)

    def trainers(**variables: str) -> list[list[str]]:
        done = _run(corpus, "2", "4", programs=tmp_path, KATHLEEN="recordings", **variables)
        commands = [line.split() for line in done.stdout.splitlines() if not line.startswith("==")]
        return [[word for word in command if word.startswith("trainer=")] for command in commands]

    assert trainers(TRAINER="tiny") == [["trainer=classifier"], ["trainer=tiny"], ["trainer=tiny"]]
    assert trainers(CLASSIFIER_TRAINER="tiny", TRAINER="short") == [["trainer=tiny"]] + 2 * [["trainer=short"]]


def test_stages_that_are_not_there_are_refused() -> None:
    done = _run("kathleen", "4", "2", KATHLEEN="recordings")
    assert done.returncode == 2
    assert "FIRST" in done.stderr


def test_a_recipe_without_its_recordings_says_what_to_set() -> None:
    done = _run("kathleen", KATHLEEN="")
    assert done.returncode != 0
    assert "KATHLEEN=DIR" in done.stderr
