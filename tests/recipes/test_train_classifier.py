"""`wavenet train-classifier`: labels, training, and a verdict on unseen speech."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data.corpora import CorpusConfig
from data.mel import MelConfig
from data.phones import LabelledCorpus
from data.prepare import PrepareConfig, prepare
from recipes.train_classifier import judge, majority
from wavenet.checkpoint import load_description, save_description

Finished = subprocess.CompletedProcess[str]

SMALL = ["classifier.bands=32", "classifier.window=256", "classifier.pools=[32,2]"]
SMALL += ["classifier.channels=[32,32]", "classifier.layers=[3,3]"]
TRAIN = ["train-classifier", "trainer=tiny", *SMALL, "crops.frames=64", "workers=0"]


@pytest.fixture(scope="session")
def spoken_corpus(toy_mel: MelConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences by one synthetic voice, at 8 kHz."""
    out = tmp_path_factory.mktemp("spoken") / "corpus"
    corpus = CorpusConfig(utterances=24, voices=["en-us"])
    prepare(PrepareConfig(corpus, toy_mel, out=str(out), workers=0, test=0.2))
    return out


def test_a_small_one_learns_phones_and_hears_noise(
    wavenet: Callable[..., Finished], spoken_corpus: Path, tmp_path: Path
) -> None:
    command = [*TRAIN, f"data={spoken_corpus}", f"run={tmp_path}", "trainer.steps=70", "trainer.batch_size=4"]
    command += ["trainer.validate_every=35", "trainer.ema_decay=0.9", "optim.warmup_steps=10", "optim.lr=4e-3"]
    done = wavenet(*command)
    assert done.returncode == 0, done.stderr
    assert "24 utterances labelled" in done.stdout
    assert "of the frames right" in done.stdout and "40db" in done.stdout
    corpus = LabelledCorpus(spoken_corpus)
    figures = judge(tmp_path, corpus)
    unseen = np.concatenate([corpus.phones(entry) for entry in corpus.entries("test")])
    assert figures["accuracy"] > 2 * np.bincount(unseen).max() / len(unseen)
    assert 0 < figures["gram_40db"] < figures["gram_20db"] < figures["gram_0db"]
    description = load_description(tmp_path, "classifier")
    assert description.model["phones"] == corpus.names
    assert description.training["voice"] == "en-us"
    again = wavenet(*command)
    assert again.returncode == 0 and "24 of them were there already" in again.stdout
    assert "is finished: 70 steps of 70" in again.stderr
    assert again.stdout.splitlines()[-1] == done.stdout.splitlines()[-1]


def test_the_majority_is_that_of_the_training_split(wavenet: Callable[..., Finished], spoken_corpus: Path) -> None:
    run = spoken_corpus.parent / "brief"
    done = wavenet(*TRAIN, "trainer.steps=1", f"data={spoken_corpus}", f"run={run}")
    assert done.returncode == 0, done.stderr
    corpus = LabelledCorpus(spoken_corpus)
    frames = [phone for entry in corpus.entries("train") for phone in corpus.phones(entry).tolist()]
    assert majority(corpus) == max(set(frames), key=frames.count)


def test_a_corpus_without_texts_is_refused(wavenet: Callable[..., Finished], toy_corpus: Path, tmp_path: Path) -> None:
    done = wavenet(*TRAIN, f"data={toy_corpus}", f"run={tmp_path}")
    assert done.returncode == 2
    assert "none of its 10 utterances has a text" in done.stderr


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("classifier.pools=[32,4]", "set classifier.pools to factors of 64"),
        ("crops.frames=6", "crops.frames is 6, but the labels of the last 6 frames"),
        ("workers=-1", "workers must be 0 or more"),
        ("voice=en-gb", "its phones were labelled with the voice 'en-us', not 'en-gb'"),
        ("data=nowhere", "nowhere"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    wavenet: Callable[..., Finished], spoken_corpus: Path, tmp_path: Path, override: str, message: str
) -> None:
    done = wavenet(*TRAIN, f"data={spoken_corpus}", f"run={tmp_path}", override)
    assert done.returncode == 2
    assert message in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_student_is_distilled_with_the_ear_of_its_corpus(
    wavenet: Callable[..., Finished], spoken_corpus: Path, toy_teacher: Path, tmp_path: Path
) -> None:
    ear, student = tmp_path / "ear", tmp_path / "student"
    assert wavenet(*TRAIN, "trainer.steps=1", f"data={spoken_corpus}", f"run={ear}").returncode == 0
    distill = ["distill", "trainer=tiny", "trainer.steps=2", "student=tiny", "crops.frames=16", "clips=0"]
    distill += ["losses=spectral", "losses.power.fft_sizes=[128]", f"data={spoken_corpus}", f"run={student}"]
    distill += [f"teacher_checkpoint={toy_teacher}", "losses.perceptual.weight=0.5"]
    done = wavenet(*distill)
    assert done.returncode == 2 and "perceptual.classifier names no checkpoint" in done.stderr
    done = wavenet(*distill, f"losses.perceptual.classifier={ear}")
    assert done.returncode == 0, done.stderr
    curves = [json.loads(line) for line in (student / "log.jsonl").read_text().splitlines()]
    assert [0 < line["train/perceptual"] < 1 for line in curves if "train/loss" in line] == [True, True]
    description = load_description(ear)
    description.mel["floor"] = 1e-4
    save_description(ear, description)
    done = wavenet(*distill, f"losses.perceptual.classifier={ear}", f"run={tmp_path / 'other'}")
    assert done.returncode == 2 and "the classifier was trained with MelConfig" in done.stderr
