"""`make demo`: its first words, its folders, and all of it at toy size."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data.corpora import CorpusConfig, CorpusKind
from data.prepare import PrepareConfig
from recipes import demo
from recipes.configuration import ConfigError

TOY = [
    f"{stage}.{field}" for stage in ("train", "distill") for field in ("trainer.steps=2", "crops.frames=8", "clips=0")
]


def test_it_greets_with_the_first_recording_that_can_be_read(
    tmp_path: Path, toy_recordings: Callable[[list[str]], Path]
) -> None:
    root = toy_recordings(["one"])
    (root / "clip0.wav").write_bytes(b"")
    config = PrepareConfig(CorpusConfig(kind=CorpusKind.folder, root=str(root)))
    assert len(demo.greet(tmp_path, config).written) == 1
    assert np.array_equal(soundfile.read(tmp_path / "clip1.wav")[0], soundfile.read(root / "clip1.wav")[0])
    for path in root.glob("*.wav"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of its 10 sound files can be read, as the last: .*clip9\.wav: .*empty"):
        demo.greet(tmp_path, config)


def test_each_corpus_has_a_folder_of_its_own() -> None:
    folders = [demo.default_folder(corpus) for corpus in (None, Path("a/ann"), Path("ben/"), Path("../a/ann/.."))]
    assert [folder.as_posix() for folder in folders] == ["runs/demo", "runs/demo-ann", "runs/demo-ben", "runs/demo-a"]


def test_an_override_names_its_stage() -> None:
    given = demo.by_stage(["train.trainer.steps=2", "prepare.valid=0.2"])
    assert given == {"prepare": ["valid=0.2"], "train": ["trainer.steps=2"], "distill": []}
    with pytest.raises(ConfigError, match=r"trainer\.steps=2: there is no stage 'trainer'; begin with one of prepare,"):
        demo.by_stage(["trainer.steps=2"])


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
