"""The constants of a corpus, against the distributions that they describe."""

import math

import numpy as np
import pytest

from data.audio import PCM_SCALE, to_pcm
from data.levels import corpus_levels, measure

RATE = 16000


def test_the_scale_of_logistic_noise_is_recovered_at_the_networks_level() -> None:
    noise = np.random.default_rng(0).logistic(scale=0.01, size=200_000)
    levels = corpus_levels([measure(to_pcm(noise), RATE)])
    assert levels.gain == pytest.approx(0.5 / np.abs(noise).max(), rel=1e-3)
    assert levels.scale == pytest.approx(0.01 * levels.gain, rel=0.01)


def test_the_silence_floor_lies_10_db_under_the_quietest_frames() -> None:
    rng = np.random.default_rng(0)
    pauses = 0.002 * rng.logistic(size=RATE)  # 1 s of 20 s
    speech = rng.uniform(-0.5, 0.5, 19 * RATE)
    levels = corpus_levels([measure(to_pcm(speech), RATE), measure(to_pcm(pauses), RATE)])
    expected = math.log(0.002 * levels.gain) - math.log(10 ** (10 / 20))
    assert levels.silence_log_scale == pytest.approx(expected, abs=0.15)


def test_digital_silence_counts_as_the_rounding_error_of_16_bits() -> None:
    half_silent = np.concatenate([np.zeros(RATE), np.full(RATE, 0.5)])
    levels = corpus_levels([measure(to_pcm(half_silent), RATE)])
    rms = 1 / (PCM_SCALE * math.sqrt(12))
    assert levels.silence_log_scale == pytest.approx(math.log(rms * math.sqrt(3) / math.pi) - math.log(10) / 2)


def test_the_loudest_sample_decides_the_gain_and_full_scale_is_counted() -> None:
    loud = measure(np.array([-32768, 32767, 0, 5], dtype=np.int16), RATE)
    quiet = measure(np.array([1, -2, 3], dtype=np.int16), RATE)
    assert (loud.full_scale, quiet.full_scale) == (2, 0)
    assert corpus_levels([quiet, loud]).gain == 0.5


def test_a_waveform_shorter_than_a_frame_is_one_frame() -> None:
    assert len(measure(np.ones(10, dtype=np.int16), RATE).powers) == 1
