"""Every failure, provoked on synthetic speech, gets its own verdict, and good speech gets none."""

import math
from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor

from data.audio import resample
from data.dataset import SILENCE_PEAK
from data.espeak import speak
from data.mel import MelConfig, log_mel
from distill.health import (
    COLLAPSE,
    EXPLODING,
    HEALTHY,
    HISS,
    IGNORING,
    JUDGED,
    MUFFLED,
    NOT_A_NUMBER,
    OFFSET,
    RUMBLE,
    TOO_QUIET,
    WHISPERING,
    Verdict,
    diagnose,
    examine,
    examine_scales,
)
from distill.student import Base
from recipes.ailments import explode, hiss, hum, muffle, offset, other, rumble, whisper
from wavenet.metrics import griffin_lim

RATE = 22050
TEXTS = ("The boy was there when the sun rose.", "A rod is used to catch pink salmon.", "Kick the ball straight.")
FAILURES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Verdict]] = {
    "noise of scale 1": (lambda wav, another: explode(wav), EXPLODING),
    "ten times too loud": (lambda wav, another: 10 * wav, EXPLODING),
    "not a number": (lambda wav, another: wav * math.nan, NOT_A_NUMBER),
    "infinite": (lambda wav, another: torch.full_like(wav, math.inf), EXPLODING),
    "30 dB quieter": (lambda wav, another: wav / 10**1.5, TOO_QUIET),
    "50 dB quieter": (lambda wav, another: wav / 10**2.5, TOO_QUIET),
    "a hum": (lambda wav, another: hum(wav, RATE), COLLAPSE),
    "nothing": (lambda wav, another: torch.zeros_like(wav), TOO_QUIET),
    "noise": (lambda wav, another: 0.02 * explode(wav), COLLAPSE),
    "another clip": (other, IGNORING),
    "the same clip half a second late": (lambda wav, another: wav.roll(RATE // 2), IGNORING),
    "a whisper": (lambda wav, another: whisper(wav, RATE), WHISPERING),
    "a whisper that hisses": (lambda wav, another: hiss(whisper(wav, RATE), RATE, -25), WHISPERING),
    "a hiss": (lambda wav, another: hiss(wav, RATE, -25), HISS),
    "30 dB less above 4 kHz": (lambda wav, another: muffle(wav, RATE, -30), MUFFLED),
    "a constant of its level": (lambda wav, another: offset(wav, 1.0), OFFSET),
    "a negative constant": (lambda wav, another: offset(wav, -0.3), OFFSET),
}
GOOD: dict[str, Callable[[Tensor], Tensor]] = {
    "the recording": lambda wav: wav,
    "3 dB quieter": lambda wav: wav / math.sqrt(2),
    "upside down": lambda wav: -wav,
    "a little late": lambda wav: wav.roll(40),
    "with the noise of a room": lambda wav: wav + 1e-4 * torch.randn(wav.shape),
    "with a hiss that is hardly there": lambda wav: hiss(wav, RATE, -45),
    "with a rumble that is hardly there": lambda wav: rumble(wav, RATE, -40),
    "by Griffin-Lim": lambda wav: torch.from_numpy(griffin_lim(log_mel(wav, MelConfig()).numpy(), MelConfig())),
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
        TOO_QUIET: real / 5,
        MUFFLED: muffle(real, rate, -20),
        OFFSET: offset(real, 0.5),
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
    assert figures["offset"] == pytest.approx(0.5, abs=1e-3)
    assert examine(real + 3 * level, real + 3 * level, RATE)["offset"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("samples", [1, 100, 5000])
def test_what_is_shorter_than_a_window_has_figures_too(samples: int) -> None:
    loudest = int(recording(0).abs().argmax())
    real = recording(0)[None, loudest : loudest + samples]
    figures = examine(0.5 * real, real, RATE)
    assert figures and all(math.isfinite(value) for value in figures.values())


def test_silent_recordings_have_no_level_to_compare_with_and_are_left_out() -> None:
    """One such crop would decide a mean over decibels."""
    real = recording(0)[None]
    silent = torch.full_like(real, SILENCE_PEAK)
    said, log_scale = 0.9 * real, torch.full_like(real, -6.0)
    assert examine(said, silent, RATE) == examine_scales(log_scale, silent, Base.logistic) == {}
    both = [torch.cat(pair) for pair in ((said, real), (real, silent), (log_scale, log_scale + 5))]
    assert examine(both[0], both[1], RATE) == examine(said, real, RATE)
    assert examine_scales(both[2], both[1], Base.logistic) == examine_scales(log_scale, real, Base.logistic)


@pytest.mark.parametrize("gain", [0.5, 200.0])
def test_what_is_silent_is_said_in_the_unit_of_the_recording(gain: float) -> None:
    """Waveforms of a sound file are the network's over the gain."""
    real = recording(0)[None]
    file_level, silent = real / gain, torch.full_like(real, 0.99 * SILENCE_PEAK / gain)
    figures = examine(0.9 * file_level, file_level, RATE, SILENCE_PEAK / gain)
    assert figures["level_db"] == pytest.approx(20 * math.log10(0.9), abs=1e-3)
    assert examine(silent, silent, RATE, SILENCE_PEAK / gain) == {}


@pytest.mark.parametrize("rate", [8000, 22050])
def test_a_rumble_is_told_in_the_pauses(rate: int) -> None:
    real = torch.from_numpy(resample(recording(0).numpy(), RATE, rate))
    real = torch.cat([real, 1e-4 * torch.randn(rate)])
    assert judge(rumble(real, rate, -15), real, rate) == RUMBLE
    assert judge(rumble(real, rate, -15), rumble(real, rate, -15, seed=1), rate) == HEALTHY


def test_a_recording_that_pauses_in_digital_silence_is_said_well_with_the_rounding_of_16_bits() -> None:
    real = torch.cat([recording(0), torch.zeros(RATE)])
    assert judge(real + 2e-5 * torch.randn(real.shape), real) == HEALTHY


@pytest.mark.parametrize("name", JUDGED)
def test_a_figure_that_is_not_a_number_is_never_healthy(name: str) -> None:
    real = recording(0)[None]
    figures = examine(real, real, RATE)
    figures |= examine_scales(torch.full_like(real, -6.0), real, Base.logistic)
    assert diagnose(figures) == HEALTHY
    assert diagnose(figures | {name: math.nan}) == NOT_A_NUMBER


@pytest.mark.parametrize(("said", "real"), [((5000,), (5000,)), ((1, 5000), (1, 4999)), ((2, 50), (1, 50))])
def test_waveforms_that_do_not_match_are_refused(said: tuple[int, ...], real: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="give two of one shape"):
        examine(torch.zeros(said), torch.zeros(real), RATE)


def test_a_verdict_says_the_sign_and_the_remedy() -> None:
    assert str(WHISPERING) == f"whispering: {WHISPERING.sign}; {WHISPERING.remedy}"
    assert "losses.power.frame_weight" in str(WHISPERING)
