"""Laws of the phone classifier: what an output hears, checkpoints, and refusals."""

import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from data.mel import MelConfig
from distill.classifier import (
    ClassifierConfig,
    ClassifierSize,
    Filterbank,
    PhoneClassifier,
    gabor_filters,
    load_classifier,
    load_classifier_for,
)
from wavenet.checkpoint import CheckpointError, Description, save_description, save_weights

HOP = 16
SIZE = ClassifierSize(bands=4, window=24, channels=[6, 8], layers=[3, 2], pools=[4, 4], lookahead=2)
CONFIG = ClassifierConfig(**asdict(SIZE), sample_rate=4000, hop_length=HOP, phones=["", "a", "b"])
REACH = 23 + 14 * 4 + 3 * 4 + 6 * HOP  # samples back: a filter, a stack, a mean, a stack


@pytest.fixture
def classifier() -> PhoneClassifier:
    return PhoneClassifier(CONFIG).double()


@pytest.fixture
def wav() -> torch.Tensor:
    return 0.05 * torch.randn(2, 30 * HOP, dtype=torch.float64)


def describe(mel: MelConfig, **changes: object) -> Description:
    return Description(**{"kind": "classifier", "model": asdict(CONFIG), "mel": asdict(mel), "gain": 1.5, **changes})


def test_filters_and_stages_run_at_their_rates(classifier: PhoneClassifier, wav: torch.Tensor) -> None:
    assert [stage.shape for stage in classifier.activations(wav)] == [(2, 120, 4), (2, 120, 6), (2, 30, 8)]
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


@pytest.mark.parametrize("band", [12, 20, 28, 35])
def test_a_filter_answers_a_sine_at_its_centre_most_and_with_its_power(band: int) -> None:
    rate, window = 22050, 1024
    filters = gabor_filters(40, window, rate).double()
    low, high = (1127 * math.log1p(hertz / 700) for hertz in (60.0, 0.48 * rate))
    centre = 700 * math.expm1((low + (high - low) * band / 39) / 1127)
    t = torch.arange(window, dtype=torch.float64) / rate
    power = []
    for frequency in (0.85 * centre, centre, 1.15 * centre):
        real, imaginary = (filters @ torch.sin(2 * math.pi * frequency * t)).chunk(2)
        power.append((real.square() + imaginary.square())[band].item())
    assert power[1] == max(power)
    assert power[1] == pytest.approx(1.0, rel=0.01)


def test_the_filters_give_the_logarithm_of_the_power_over_the_floor() -> None:
    bank = Filterbank(bands=8, window=64, stride=16, sample_rate=8000).double()
    wav = torch.randn(1, 320, dtype=torch.float64)
    heard, louder = bank(wav), bank(10 * wav)
    assert heard.shape == (1, 20, 8)
    assert (louder - heard)[:, 4:].min().item() == pytest.approx(math.log(100), abs=0.05)
    assert (bank(torch.zeros_like(wav)) == 0).all()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(bank(wav), heard)


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
        ({"channels": [4]}, "do not fit: every stage has one of each"),
        ({"layers": [2, 3, 2]}, "do not fit: every stage has one of each"),
        ({"layers": [2, 0]}, "must be at least 1"),
        ({"bands": 0}, "must be at least 1"),
        ({"window": 3}, "window is 3, but filters 4 samples apart"),
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
