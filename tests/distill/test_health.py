"""Every failure, provoked on synthetic speech, gets its own verdict, and good speech gets none."""

import math
from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor

from data.audio import resample
from data.espeak import speak
from distill.health import (
    COLLAPSE,
    EXPLODING,
    HEALTHY,
    HISS,
    IGNORING,
    WHISPERING,
    Verdict,
    diagnose,
    examine,
    examine_scales,
)
from distill.student import Base
from recipes.ailments import explode, hiss, hum, other, whisper

RATE = 22050
TEXTS = ("The boy was there when the sun rose.", "A rod is used to catch pink salmon.", "Kick the ball straight.")
FAILURES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Verdict]] = {
    "noise of scale 1": (lambda wav, another: explode(wav), EXPLODING),
    "ten times too loud": (lambda wav, another: 10 * wav, EXPLODING),
    "not a number": (lambda wav, another: wav * math.nan, EXPLODING),
    "a hum": (lambda wav, another: hum(wav, RATE), COLLAPSE),
    "nothing": (lambda wav, another: torch.zeros_like(wav), COLLAPSE),
    "noise": (lambda wav, another: 0.02 * explode(wav), COLLAPSE),
    "another clip": (other, IGNORING),
    "the same clip half a second late": (lambda wav, another: wav.roll(RATE // 2), IGNORING),
    "a whisper": (lambda wav, another: whisper(wav, RATE), WHISPERING),
    "a whisper that hisses": (lambda wav, another: hiss(whisper(wav, RATE), RATE, -25), WHISPERING),
    "a hiss": (lambda wav, another: hiss(wav, RATE, -25), HISS),
}
GOOD: dict[str, Callable[[Tensor], Tensor]] = {
    "the recording": lambda wav: wav,
    "3 dB quieter": lambda wav: wav / math.sqrt(2),
    "upside down": lambda wav: -wav,
    "a little late": lambda wav: wav.roll(40),
    "with the noise of a room": lambda wav: wav + 1e-4 * torch.randn(wav.shape),
    "with a hiss that is hardly there": lambda wav: hiss(wav, RATE, -45),
}


@cache
def recording(n: int, voice: str = "en-us") -> Tensor:
    """(T,), T a multiple of 256."""
    wav, rate = speak(TEXTS[n], voice)
    assert rate == RATE
    return torch.from_numpy(wav[: len(wav) // 256 * 256])


def judge(said: Tensor, real: Tensor, rate: int = RATE) -> Verdict:
    return diagnose(examine(said[None], real[None], rate))


@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize("failure", FAILURES)
def test_every_failure_is_told_by_its_name(failure: str, n: int) -> None:
    provoke, verdict = FAILURES[failure]
    assert judge(provoke(recording(n), recording(n + 1)), recording(n)) == verdict


@pytest.mark.parametrize("good", GOOD)
def test_good_speech_is_healthy(good: str) -> None:
    assert judge(GOOD[good](recording(0)), recording(0)) == HEALTHY


@pytest.mark.parametrize("rate", [8000, 16000, 24000])
def test_the_verdicts_hold_at_other_sampling_rates(rate: int) -> None:
    real, another = (torch.from_numpy(resample(recording(n).numpy(), RATE, rate)) for n in (0, 1))
    said = {
        HEALTHY: real,
        HISS: hiss(real, rate, -20),
        WHISPERING: whisper(real, rate),
        IGNORING: other(real, another),
        COLLAPSE: hum(real, rate),
        EXPLODING: explode(real),
    }
    for verdict, version in said.items():
        assert judge(version, real, rate) == verdict


@pytest.mark.parametrize("failure", ["a hum", "another clip", "a whisper", "a hiss"])
def test_a_crop_as_short_as_a_training_window_shows_it_too(failure: str) -> None:
    """In a batch, whose clips count together."""
    provoke, verdict = FAILURES[failure]
    crops = slice(4096, 4096 + 8192)
    pairs = [(provoke(recording(n), recording((n + 1) % 3)), recording(n)) for n in range(3)]
    said, real = (torch.stack([pair[side][crops] for pair in pairs]) for side in (0, 1))
    assert diagnose(examine(said, real, RATE)) == verdict


def test_scales_louder_than_the_recording_explode_whatever_the_waveform() -> None:
    real = recording(0)[None]
    figures = examine(real, real, RATE)
    quiet, loud = (examine_scales(torch.full_like(real, level), real, Base.logistic) for level in (-6.0, -0.5))
    assert diagnose(figures | quiet) == HEALTHY
    assert diagnose(figures | loud) == EXPLODING


@pytest.mark.parametrize("base", Base)
def test_the_noise_is_as_loud_as_its_scales_make_it(base: Base) -> None:
    real = torch.full((1, 200_000), 0.5)
    log_scale = torch.full_like(real, math.log(0.05))
    figures = examine_scales(log_scale, real, base)
    torch.manual_seed(0)
    drawn = (0.05 * base.draw(real)).abs().mean() / 0.5
    assert figures["noise_db"] == pytest.approx(20 * math.log10(drawn), abs=0.1)
    assert (figures["log_scale"], figures["log_scale_most"]) == pytest.approx([math.log(0.05)] * 2)
    assert figures["log_scale_spread"] == pytest.approx(0, abs=1e-4)


# The figures


def test_a_recording_differs_from_itself_by_nothing() -> None:
    figures = examine(recording(0)[None], recording(0)[None], RATE)
    ones = {"periodicity", "liveliness", "following"}
    for name, value in figures.items():
        if name != "offset":
            assert value == pytest.approx(1.0 if name in ones else 0.0, abs=1e-4), name


@pytest.mark.parametrize("gain", [0.5, 2.0])
def test_a_gain_moves_every_level_alike(gain: float) -> None:
    figures = examine(gain * recording(0)[None], recording(0)[None], RATE)
    decibels = 20 * math.log10(gain)
    for name in ("level_db", "magnitude_db", "hiss_db", "floor_db", "band_0_db", "band_4000_db"):
        assert figures[name] == pytest.approx(decibels, abs=0.5), name
    assert figures["periodicity"] == pytest.approx(1.0, abs=1e-3)


def test_a_tone_is_found_in_its_band_alone() -> None:
    real = recording(0)[None]
    tone = 0.05 * torch.sin(2 * math.pi * 3000 * torch.arange(real.shape[1]) / RATE)
    figures = examine(real + tone, real, RATE)
    assert figures["band_2000_db"] > 6
    for name in ("band_0_db", "band_500_db", "band_1000_db", "band_4000_db", "band_8000_db"):
        assert abs(figures[name]) < 0.5, name


def test_a_constant_is_an_offset() -> None:
    real = recording(0)[None]
    level = real.square().mean().sqrt().item()
    figures = examine(real + 0.5 * level, real, RATE)
    assert figures["offset"] == pytest.approx(0.5 + real.mean().item() / level, abs=1e-3)


@pytest.mark.parametrize("samples", [1, 100, 5000])
def test_what_is_shorter_than_a_window_has_figures_too(samples: int) -> None:
    real = recording(0)[None, 4096 : 4096 + samples]
    assert all(math.isfinite(value) for value in examine(0.5 * real, real, RATE).values())


def test_digital_silence_has_figures_too() -> None:
    silence = torch.zeros(1, 5000)
    for said, real in ((silence, silence), (recording(0)[None, :5000], silence)):
        assert not any(math.isnan(value) for value in examine(said, real, RATE).values())


@pytest.mark.parametrize(("said", "real"), [((5000,), (5000,)), ((1, 5000), (1, 4999)), ((2, 50), (1, 50))])
def test_waveforms_that_do_not_match_are_refused(said: tuple[int, ...], real: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="give two of one shape"):
        examine(torch.zeros(said), torch.zeros(real), RATE)


def test_a_verdict_says_the_sign_and_the_remedy() -> None:
    assert str(WHISPERING) == f"whispering: {WHISPERING.sign}; {WHISPERING.remedy}"
    assert "losses.power.frame_weight" in str(WHISPERING)
