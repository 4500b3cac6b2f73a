"""Laws of the phone classifier: what an output hears, checkpoints, and refusals."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from data.mel import MelConfig
from distill.classifier import (
    ClassifierConfig,
    ClassifierSize,
    PhoneClassifier,
    load_classifier,
    load_classifier_for,
)
from wavenet.checkpoint import CheckpointError, Description, save_description, save_weights

HOP = 16
SIZE = ClassifierSize(channels=[4, 6, 8], pools=[4, 4], layers=[2, 3, 2], lookahead=2)
CONFIG = ClassifierConfig(**asdict(SIZE), hop_length=HOP, phones=["", "a", "b"])
REACH = 6 * 1 + 14 * 4 + 6 * HOP + HOP - 1  # of the stages' stacks and of the means, samples back


@pytest.fixture
def classifier() -> PhoneClassifier:
    return PhoneClassifier(CONFIG).double()


@pytest.fixture
def wav() -> torch.Tensor:
    return 0.05 * torch.randn(2, 30 * HOP, dtype=torch.float64)


def describe(mel: MelConfig, **changes: object) -> Description:
    return Description(**{"kind": "classifier", "model": asdict(CONFIG), "mel": asdict(mel), "gain": 1.5, **changes})


def test_every_stage_is_slower_than_the_one_before(classifier: PhoneClassifier, wav: torch.Tensor) -> None:
    assert [stage.shape for stage in classifier.activations(wav)] == [(2, 480, 4), (2, 120, 6), (2, 30, 8)]
    assert classifier(wav).shape == (2, 30 - 2, 3)


def test_a_label_hears_its_own_frame_and_those_around_it_only(classifier: PhoneClassifier, wav: torch.Tensor) -> None:
    wav.requires_grad_()
    frame = 20
    classifier(wav)[:, frame].square().sum().backward()
    assert wav.grad is not None
    heard = wav.grad[0].nonzero()[:, 0]
    last = (frame + SIZE.lookahead + 1) * HOP - 1
    assert heard.max() == last
    assert heard.min() == last - REACH


def test_a_frame_later_is_heard_as_a_frame_later(classifier: PhoneClassifier, wav: torch.Tensor) -> None:
    early, late = classifier.activations(wav), classifier.activations(wav[:, HOP:])
    for one, other in zip(early, late, strict=True):
        rate = wav.shape[1] // one.shape[1]
        settled = REACH // rate + 1
        torch.testing.assert_close(one[:, HOP // rate :][:, settled:], other[:, settled:])


@pytest.mark.parametrize("length", [0, HOP - 1, 3 * HOP + 5])
def test_a_part_of_a_frame_is_refused(classifier: PhoneClassifier, length: int) -> None:
    with pytest.raises(ValueError, match=f"has {length} samples, but the classifier reads whole frames of {HOP}"):
        classifier(torch.zeros(1, length, dtype=torch.float64))


def test_a_checkpoint_comes_back_whole(wav: torch.Tensor, mel_config: MelConfig, tmp_path: Path) -> None:
    model = PhoneClassifier(CONFIG)
    save_weights(tmp_path, model.state_dict())
    save_description(tmp_path, describe(mel_config))
    loaded, description = load_classifier(tmp_path)
    assert loaded.config == CONFIG and not loaded.training
    assert torch.equal(loaded(wav.float()), model(wav.float()))
    _, gain = load_classifier_for(tmp_path, mel_config)
    assert gain == description.gain == 1.5


@pytest.mark.parametrize("changes", [{"sample_rate": 8000}, {"floor": 1e-4}, {"hop_length": 8}])
def test_a_classifier_of_other_speech_is_refused(
    mel_config: MelConfig, tmp_path: Path, changes: dict[str, float]
) -> None:
    save_weights(tmp_path, PhoneClassifier(CONFIG).state_dict())
    save_description(tmp_path, describe(mel_config))
    with pytest.raises(CheckpointError, match=r"was trained with MelConfig.*train one on this corpus"):
        load_classifier_for(tmp_path, replace(mel_config, **changes))


def test_a_teacher_is_no_classifier(mel_config: MelConfig, tmp_path: Path) -> None:
    save_description(tmp_path, describe(mel_config, kind="teacher"))
    with pytest.raises(
        CheckpointError, match="holds a teacher, and a classifier is needed; `wavenet train-classifier`"
    ):
        load_classifier(tmp_path)


def test_a_classifier_whose_mel_has_another_hop_is_refused(mel_config: MelConfig, tmp_path: Path) -> None:
    save_weights(tmp_path, PhoneClassifier(CONFIG).state_dict())
    save_description(tmp_path, describe(replace(mel_config, hop_length=32)))
    with pytest.raises(CheckpointError, match="copy the checkpoint again"):
        load_classifier_for(tmp_path, replace(mel_config, hop_length=32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": [4, 6]}, "do not fit: every stage has"),
        ({"layers": [2]}, "do not fit: every stage has"),
        ({"layers": [2, 0, 2]}, "must be at least 1"),
        (
            {"pools": [4, 5]},
            "make frames of 20 samples, but the mel's hop is 16; set classifier.pools to",
        ),
        ({"lookahead": -1}, "lookahead is -1 frames"),
        ({"unit": 0.0}, "unit is 0.0; it must be positive"),
        ({"phones": ["a"]}, "1 phones cannot be told apart"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **changes)
