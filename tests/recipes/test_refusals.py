"""Bad input is refused in one line that names it: exit code 2, no traceback, nothing written, nothing overwritten.

Most cases run in this process; those marked as processes run as the user's shell would run them.
"""

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from data.mel import MelConfig, log_mel

Finished = subprocess.CompletedProcess[str]
Speech = Callable[..., NDArray[np.float32]]


@pytest.fixture
def world(
    tmp_path: Path,
    toy_mel: MelConfig,
    toy_speech: Speech,
    toy_teacher: Path,
    toy_student: Path,
    toy_corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A user's folder: a recording, its mel, a corpus, a teacher and a student, and where to write."""
    wav = toy_speech(0.4)
    soundfile.write(tmp_path / "good.wav", wav, toy_mel.sample_rate, subtype="PCM_16")
    np.save(tmp_path / "mel.npy", log_mel(torch.from_numpy(wav), toy_mel).numpy())
    (tmp_path / "corpus").symlink_to(toy_corpus)
    shutil.copytree(toy_teacher, tmp_path / "teacher")
    shutil.copytree(toy_student, tmp_path / "student")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept.wav").write_bytes(b"what was there")
    (tmp_path / "file").write_bytes(b"no folder")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def everything(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_refused(done: Finished, *fragments: str) -> None:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    for fragment in fragments:
        assert fragment in done.stderr.replace("\n", " "), done.stderr


# Sounds and mels


def spoil_files(folder: Path, toy_mel: MelConfig) -> dict[str, str]:
    """Every kind of bad file, by name, and what must be said of it."""
    folder.mkdir()
    wav, rate = soundfile.read("good.wav", dtype="float32")
    mel = np.load("mel.npy")
    (folder / "empty.wav").touch()
    whole = Path("good.wav").read_bytes()
    (folder / "truncated.wav").write_bytes(whole[: len(whole) // 2])
    (folder / "text.wav").write_bytes(b"this is no sound at all, only some words about it")
    soundfile.write(folder / "nan.wav", np.where(wav == wav.max(), np.nan, wav), rate, subtype="FLOAT")
    soundfile.write(folder / "inf.wav", np.where(wav == wav.max(), np.inf, wav), rate, subtype="FLOAT")
    soundfile.write(folder / "short.wav", wav[: toy_mel.hop_length - 1], rate)
    soundfile.write(folder / "nothing.wav", wav[:0], rate)
    np.save(folder / "bands.npy", np.concatenate([mel, mel]))
    np.save(folder / "transposed.npy", mel.T)
    np.save(folder / "decibels.npy", 20 / np.log(10) * mel)
    np.save(folder / "frameless.npy", mel[:, :0])
    np.save(folder / "nan_mel.npy", np.where(mel == mel.max(), np.nan, mel))
    np.save(folder / "inf_mel.npy", np.where(mel == mel.max(), np.inf, mel))
    np.save(folder / "integers.npy", mel.astype(np.int64))
    np.save(folder / "objects.npy", np.array([mel, None], dtype=object), allow_pickle=True)
    mel.dump(folder / "pickled.npy")
    (folder / "text.npy").write_bytes(b"this is no array")
    (folder / "half.npy").write_bytes(Path("mel.npy").read_bytes()[:-100])
    (folder / "void.npy").touch()
    (folder / "text.wav").rename(folder / "words.wav")
    return {
        "empty.wav": "0 bytes",
        "truncated.wav": "truncated",
        "words.wav": "not a readable sound file",
        "nan.wav": "NaN",
        "inf.wav": "infinite",
        "short.wav": "shorter than one frame",
        "nothing.wav": "no samples",
        "bands.npy": "needs 20 bands, not 40",
        "transposed.npy": "transposed",
        "decibels.npy": "decibels",
        "frameless.npy": "zero frames",
        "nan_mel.npy": "NaN",
        "inf_mel.npy": "infinity",
        "integers.npy": "int64",
        "objects.npy": "not a plain .npy array",
        "pickled.npy": "not a plain .npy array",
        "text.npy": "not a plain .npy array",
        "half.npy": "not a plain .npy array",
        "void.npy": "not a plain .npy array",
    }


def test_of_a_folder_the_good_files_are_written_and_the_bad_ones_named(
    world: Path, toy_mel: MelConfig, wavenet_process: Callable[..., Finished]
) -> None:
    reasons = spoil_files(world / "inputs", toy_mel)
    for number, good in enumerate(["good.wav", "mel.npy"]):
        shutil.copy(good, world / "inputs" / f"{number}{good}")
    before = everything(world)
    done = wavenet_process("synthesize", "inputs", "--checkpoint", "student", "--out", "out")
    assert_refused(done, f"{len(reasons)} of the inputs refused")
    summary = done.stderr[done.stderr.index("of the inputs refused") :].splitlines()[1:]
    assert len(summary) == len(reasons)
    for name, reason in reasons.items():
        assert any(f"inputs/{name}" in line and reason in line for line in summary), (name, summary)
    assert "2 files" in done.stdout
    after = everything(world)
    assert {path.name for path in after.keys() - before.keys()} == {"0good.wav", "1mel.wav"}
    assert all(after[path] == content for path, content in before.items())


def test_each_bad_file_alone_leaves_nothing_behind(
    world: Path, toy_mel: MelConfig, wavenet: Callable[..., Finished]
) -> None:
    reasons = spoil_files(world / "inputs", toy_mel)
    before = everything(world)
    for name, reason in reasons.items():
        done = wavenet("synthesize", f"inputs/{name}", "--checkpoint", "student", "--out", f"new/{name}")
        assert_refused(done, name, reason)
    assert everything(world) == before
    assert not Path("new").exists()


# Everything else: (command, what must be said)

SPEAK = "synthesize good.wav --out out --checkpoint"
JUDGE = "evaluate --data corpus --out out --checkpoint"
RACE = "benchmark --seconds 0.1 --repeats 1 --out out"
TRAIN = "train trainer=tiny teacher=tiny mel.sample_rate=8000 mel.n_fft=256 mel.win_length=256 mel.hop_length=64 " + (
    "mel.n_mels=20 mel.fmax=4000 data=corpus run=out/run"
)
DISTILL = "distill trainer=tiny student=tiny data=corpus run=out/run teacher_checkpoint=teacher"

REFUSALS = {
    "missing input": ("synthesize nowhere.wav --out out --checkpoint student", "nowhere.wav does not exist"),
    "empty folder": ("synthesize void --out out --checkpoint student", "void holds no sound file"),
    "text file": ("synthesize notes.txt --out out --checkpoint student", "notes.txt: not a readable sound file"),
    "two of one stem": ("synthesize good.wav other --out out --checkpoint student", "both be written as good.wav"),
    "over itself": ("synthesize good.wav --out . --checkpoint student", "good.wav would be overwritten"),
    "file for a folder": ("synthesize good.wav --out file --checkpoint student", "file is no folder"),
    "folder below a file": ("synthesize good.wav --out file/x --checkpoint student", "file is no folder"),
    "missing checkpoint": (f"{SPEAK} nowhere", "nowhere is not a directory"),
    "folder without checkpoint": (f"{SPEAK} other", "holds no config.json"),
    "a voice by an unknown name": (f"{SPEAK} katleen", "katleen is not a directory"),
    "teacher as student": (f"{SPEAK} teacher", "holds a teacher, and a student is needed"),
    "student as teacher": (f"{SPEAK} student --backend cached", "holds a student, and a teacher is needed"),
    "truncated weights": (f"{SPEAK} truncated", "truncated/model.safetensors is truncated"),
    "tampered weights": (f"{SPEAK} tampered", "does not match its sha256"),
    "weights of another": (f"{SPEAK} mixed", "the weights do not fit the Student"),
    "no weights": (f"{SPEAK} weightless", "holds no model.safetensors"),
    "future format": (f"{SPEAK} future", "has format 99, and this version reads up to 1"),
    "damaged description": (f"{SPEAK} damaged", "config.json is not JSON"),
    "speaker of a single voice": (f"{SPEAK} student --speaker eve", "'eve' is unknown"),
    "negative temperature": (f"{SPEAK} student --temperature -1", "temperature"),
    "temperature that is no number": (f"{SPEAK} student --temperature nan", "temperature"),
    "temperature of a teacher": (f"{SPEAK} teacher --backend numba --temperature 0.5", "--temperature"),
    "rounds of a teacher": (f"{SPEAK} teacher --backend numba --rounds 1", "--rounds are for students"),
    "dtype of a teacher": (f"{SPEAK} teacher --backend numba --dtype bfloat16", "--dtype"),
    "negative seed": (f"{SPEAK} student --seed -1", "--seed"),
    "unknown device": (f"{SPEAK} student --device toaster", "device is 'toaster'"),
    "unknown dtype": (f"{SPEAK} student --dtype float16", "float16"),
    "unknown backend": (f"{SPEAK} student --backend magic", "magic"),
    "unknown flag": (f"{SPEAK} student --loud", "--loud"),
    "fewer rounds than none": (f"{SPEAK} student --rounds -1", "--rounds"),
    "no checkpoint": ("synthesize good.wav --out out", "--checkpoint"),
    "unknown command": ("sing good.wav", "sing"),
    "evaluate on nothing": ("evaluate --data void --out out --checkpoint student", "void is not a prepared corpus"),
    "evaluate on no folder": ("evaluate --data nowhere --out out --checkpoint student", "nowhere is no folder"),
    "evaluate a split of a folder": (
        "evaluate --data other --split valid --out out --checkpoint student",
        "no split 'valid'",
    ),
    "evaluate on a bad file": ("evaluate --data bad --out out --checkpoint student", "bad/bad.wav: the file is empty"),
    "evaluate pupils of other mels": (f"{JUDGE} student --checkpoint wide", "they cannot be given the same"),
    "evaluate seconds that are no number": (f"{JUDGE} student --seconds nan", "--seconds"),
    "evaluate one twice": (f"{JUDGE} student --checkpoint student", "two rows would be called 'student'"),
    "evaluate fewer rounds than none": (f"{JUDGE} student --rounds -1", "--rounds"),
    "evaluate a missing checkpoint": (f"{JUDGE} nowhere", "nowhere is not a directory"),
    "evaluate on another mel": (f"{JUDGE} wide", "but corpus was prepared with"),
    "evaluate on other speakers": (f"{JUDGE} duet", "knows the speakers ada, bob"),
    "evaluate into a file": ("evaluate --data corpus --out file --checkpoint student", "file is no folder"),
    "evaluate on an unknown device": (f"{JUDGE} student --device toaster", "device is 'toaster'"),
    "evaluate an unknown split": (f"{JUDGE} student --split dev", "dev"),
    "benchmark of a pair of other mels": (f"{RACE} --teacher teacher --student wide", "with its own teacher"),
    "benchmark the wrong way round": (f"{RACE} --teacher student --student teacher", "a teacher is needed"),
    "benchmark into a file": ("benchmark --teacher teacher --student student --out file", "file is no folder"),
    "benchmark of nothing": (f"{RACE} --teacher teacher --student student --seconds 0", "--seconds is 0.0"),
    "benchmark without end": (f"{RACE} --teacher teacher --student student --seconds inf", "--seconds is inf"),
    "train without data": ("train trainer=tiny", "data has no value: pass data=..."),
    "train on a folder of anything": (f"{TRAIN} data=other", "not a prepared corpus"),
    "train on another mel": (f"{TRAIN} mel.n_mels=10", "n_mels=10"),
    "train into a file": (f"{TRAIN} run=file", "file is no folder"),
    "train over a student": (f"{TRAIN} run=student", "would overwrite it"),
    "train longer crops than the recordings": (f"{TRAIN} crops.frames=4000", "no train utterance has 4000 frames"),
    "train a speaker where there is one": (f"{TRAIN} condition.speaker=true", "the corpus has one speaker"),
    "train an unknown preset": (f"{TRAIN} teacher=giant", "giant"),
    "train an unknown key": (f"{TRAIN} trainer.stepz=1", "trainer.stepz"),
    "train an unknown device": (f"{TRAIN} trainer.device=toaster", "device is 'toaster'"),
    "train --cfg something": ("train --cfg all", "the only choice is job"),
    "distil from nothing": (f"{DISTILL} teacher_checkpoint=nowhere", "nowhere is not a directory"),
    "distil from a student": (f"{DISTILL} teacher_checkpoint=student", "holds a student, and a teacher is needed"),
    "distil from a future format": (f"{DISTILL} teacher_checkpoint=future", "has format 99"),
    "distil on another mel": (f"{DISTILL} teacher_checkpoint=wide_teacher", "but the teacher in wide_teacher reads"),
    "distil on other speakers": (f"{DISTILL} teacher_checkpoint=duet_teacher", "knows the speakers ada, bob"),
    "distil into a file": (f"{DISTILL} run=file", "file is no folder"),
    "distil an unknown preset": (f"{DISTILL} student=giant", "giant"),
    "distil with windows beyond the crop": (f"{DISTILL} crops.frames=2", "windows of 2048 samples, but a crop"),
    "prepare nothing": ("prepare corpus=folder corpus.root=void out=out/corpus", "no sound files"),
    "prepare what is not there": ("prepare corpus=folder corpus.root=nowhere out=out/corpus", "no such folder"),
    "prepare into a file": ("prepare corpus=folder corpus.root=other out=file", "file is no folder"),
    "prepare an unknown corpus": ("prepare corpus=birds", "birds"),
}
PROCESSES = {  # those that a shell runs
    "missing input",
    "teacher as student",
    "tampered weights",
    "train an unknown preset",
    "distil from a student",
    "file for a folder",
}


@pytest.fixture
def strange(world: Path, make_toy_teacher: Callable[..., Path], make_toy_student: Callable[..., Path]) -> Path:
    """Checkpoints and folders that are wrong in one way each."""
    toy_mel = MelConfig(**json.loads(Path("student/config.json").read_text())["mel"])
    wide = replace(toy_mel, n_mels=24)
    for name in ("truncated", "tampered", "mixed", "weightless", "future", "damaged"):
        shutil.copytree("student", name)
    weights = Path("student/model.safetensors").read_bytes()
    Path("truncated/model.safetensors").write_bytes(weights[: len(weights) // 2])
    Path("tampered/model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    shutil.copy("teacher/model.safetensors", "mixed/model.safetensors")
    Path("weightless/model.safetensors").unlink()
    description = json.loads(Path("student/config.json").read_text())
    Path("future/config.json").write_text(json.dumps({**description, "format": 99}))
    Path("damaged/config.json").write_text(json.dumps(description)[:-20])
    Path("wide").symlink_to(make_toy_student(mel=wide))
    Path("wide_teacher").symlink_to(make_toy_teacher(mel=wide))
    Path("duet").symlink_to(make_toy_student(speakers=("ada", "bob")))
    Path("duet_teacher").symlink_to(make_toy_teacher(speakers=("ada", "bob")))
    Path("void").mkdir()
    Path("bad").mkdir()
    Path("bad/bad.wav").touch()
    Path("other").mkdir()
    shutil.copy("good.wav", "other/good.wav")
    Path("notes.txt").write_text("words")
    return world


@pytest.mark.parametrize("case", REFUSALS)
def test_bad_input_is_refused_by_name_and_nothing_is_lost(
    strange: Path, case: str, wavenet: Callable[..., Finished], wavenet_process: Callable[..., Finished]
) -> None:
    command, said = REFUSALS[case]
    before = everything(strange)
    run = wavenet_process if case in PROCESSES else wavenet
    done = run(*command.split())
    assert_refused(done, said)
    assert everything(strange) == before
