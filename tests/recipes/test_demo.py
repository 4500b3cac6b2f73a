"""`make demo`: its first words, its folders, its overrides, and all of it at toy size."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data.atomic import LONGEST_NAME
from data.corpora import CorpusConfig, CorpusKind, list_corpus
from data.manifest import DataError
from data.prepare import PrepareConfig
from recipes import demo
from recipes.configuration import ConfigError
from recipes.synthesize import Summary

TOY = [
    f"{stage}.{field}" for stage in ("train", "distill") for field in ("trainer.steps=2", "crops.frames=8", "clips=0")
]


def test_it_greets_with_the_first_recording_that_can_be_spoken(
    tmp_path: Path, toy_recordings: Callable[[list[str]], Path]
) -> None:
    root = toy_recordings(["one"])
    (root / "clip0.wav").write_bytes(b"")
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, 22051)
    soundfile.write(root / "clip1.wav", noise, 22051)
    soundfile.write(root / "clip2.wav", noise[:100], 22050)
    (root / "clip3.wav").rename(root / f"clip3{'x' * 246}.wav")
    assert len(greet(tmp_path, root).written) == 1
    assert np.array_equal(soundfile.read(tmp_path / "hello.wav")[0], soundfile.read(next(root.glob("clip3*")))[0])


def test_without_one_it_says_why(tmp_path: Path, toy_recordings: Callable[[list[str]], Path]) -> None:
    root = toy_recordings(["one"])
    for path in root.glob("*.wav"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of its 10 sound files can be spoken, as the last: .*clip9.*: .*empty"):
        greet(tmp_path / "hello", root)
    assert not (tmp_path / "hello").exists()


def greet(folder: Path, root: Path) -> Summary:
    corpus = CorpusConfig(kind=CorpusKind.folder, root=str(root))
    return demo.greet(folder, PrepareConfig(corpus), list_corpus(corpus)[0])


def test_each_corpus_has_a_folder_of_its_own() -> None:
    corpora = [Path(name) for name in ("/", "/a/wavs", "/b/wavs", "/a-wavs", "wavs", "ä" * 120)]
    folders = [demo.default_folder(corpus) for corpus in (None, *corpora)]
    assert len(set(folders)) == len(folders)
    assert demo.default_folder(None) == Path("runs/demo")
    assert demo.default_folder(Path("../kathleen")).name.startswith("demo-kathleen-")
    assert demo.default_folder(Path("a/../wavs/")) == demo.default_folder(Path("wavs").resolve())
    assert all(folder.parent == Path("runs") and len(os.fsencode(folder.name)) <= LONGEST_NAME for folder in folders)


def test_a_folder_of_another_corpus_is_refused_before_the_greeting(
    tmp_path: Path, toy_corpus: Path, toy_recordings: Callable[[list[str]], Path]
) -> None:
    shutil.copytree(toy_corpus, tmp_path / "data")
    with pytest.raises(DataError, match=r"with other settings \(corpus\.root was .*\(--out DIR; of make: DEMO=DIR\)"):
        demo.main([], tmp_path, toy_recordings(["another"]))
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("name", ["Ann (2020)", "Jürgen's", "a=b, c"])
def test_any_folder_can_be_a_corpus(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=rf"{re.escape(name)}: no sound files in this corpus"):
        demo.main([], None, tmp_path / name)


def test_an_override_names_its_stage() -> None:
    given = demo.by_stage(["train.trainer.steps=2", "prepare.valid=0.2"])
    assert given == {"prepare": ["valid=0.2"], "train": ["trainer.steps=2"], "distill": []}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.steps=2", r"trainer\.steps=2: there is no stage 'trainer'; begin with one of prepare,"),
        ("train", r"^train: .*STAGE\.FIELD=VALUE"),
        ("train.trainer.steps", r"^train\.trainer\.steps: .*STAGE\.FIELD=VALUE"),
        ("prepare.out=elsewhere", r"^prepare\.out=elsewhere: .* --out DIR"),
        ("train.run=elsewhere", r"^train\.run=elsewhere: .* --out DIR"),
        ("distill.++run=elsewhere", r"^distill\.\+\+run=elsewhere: .* --out DIR"),
        ("train.trainer.run=elsewhere", r"^train\.trainer\.run=elsewhere: .* --out DIR"),
        ("prepare.valid=2", r"valid and test are shares"),
        ("train.trainer.steps=abc", r"'abc' .* Integer .*trainer\.steps"),
        ("distill.trainer.stepz=3", r"trainer\.stepz.*`wavenet distill --cfg job`"),
    ],
)
def test_what_any_stage_would_refuse_is_refused_before_the_first(
    override: str, message: str, tmp_path: Path, toy_recordings: Callable[[list[str]], Path]
) -> None:
    with pytest.raises(ConfigError, match=message):
        demo.main([override], tmp_path / "out", toy_recordings(["one"]))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("corpus", ["from nothing", "recordings"])
def test_the_whole_demo_ends_in_speech_and_figures(
    corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, least in {"HELD_OUT": 1, "BY_TEACHER": 1, "SECONDS": 0.02, "REPEATS": 1}.items():
        monkeypatch.setattr(demo, name, least)
    monkeypatch.chdir(tmp_path)
    root = None
    if corpus == "recordings":
        root = tmp_path / "ann"
        root.mkdir()
        for n in range(4):
            tone = 0.2 * np.sin(2 * np.pi * (150 + 10 * n) * np.arange(22050) / 22050)
            soundfile.write(root / f"{n}.wav", tone + 0.01 * np.random.default_rng(n).standard_normal(22050), 22050)
    few = [] if root else ["prepare.corpus.utterances=4"]
    demo.main([*TOY, *few, "prepare.workers=0"], None, root)
    out = demo.default_folder(root)
    rows = json.loads((out / "evaluation.json").read_text())["rows"]
    assert {"teacher", "student"} <= {Path(row["name"]).name for row in rows}
    for who in ("original", "student", "teacher", "griffin-lim"):
        assert len(list((out / "wavs" / who).glob("*.wav"))) == 1
    assert {path.name for path in out.iterdir()} >= {"hello", "figures.md", "benchmark.json", "spectrograms.png"}
    begun = json.loads((out / "teacher" / "config.json").read_text())
    assert begun["step"] == 2
