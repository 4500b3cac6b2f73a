import numpy as np
import pytest
import torch

from data.mel import MelConfig, log_mel
from wavenet.metrics import griffin_lim, log_mel_distance, noise_with_envelope, real_time_factor

CONFIG = MelConfig()
HOP = CONFIG.hop_length


@pytest.fixture(scope="module")
def voice():
    """A gliding buzz of 20 harmonics with syllables of different loudness, 60 frames."""
    t = np.arange(60 * HOP) / CONFIG.sample_rate
    phase = 2 * np.pi * (120 * t + 30 * t**2)
    buzz = sum(np.sin(k * phase) / k for k in range(1, 21))
    return (0.1 * buzz * (0.05 + np.sin(2 * np.pi * 3 * t) ** 2)).astype(np.float32)


def mel_of(wav):
    return log_mel(torch.from_numpy(wav), CONFIG).numpy()


def test_the_distance_is_a_mean_of_absolute_differences():
    a = np.random.default_rng(0).normal(size=(80, 7)).astype(np.float32)
    b = np.random.default_rng(1).normal(size=(80, 7)).astype(np.float32)
    assert log_mel_distance(a, a) == 0
    assert log_mel_distance(a, a - 0.5) == pytest.approx(0.5)
    assert log_mel_distance(a, b) == log_mel_distance(b, a) == pytest.approx(np.abs(a - b).mean())


@pytest.mark.parametrize(("a", "b"), [((80, 7), (80, 8)), ((80, 7), (7, 80)), ((80, 0), (80, 0))])
def test_mels_of_different_shapes_have_no_distance(a, b):
    with pytest.raises(ValueError, match="give two of one shape"):
        log_mel_distance(np.zeros(a, np.float32), np.zeros(b, np.float32))


def test_twice_real_time_is_two_seconds_of_sound_a_second():
    assert real_time_factor(samples=44100, seconds=1.0, rate=22050) == 2.0
    assert real_time_factor(samples=11025, seconds=1.0, rate=22050) == 0.5


@pytest.mark.parametrize(("seconds", "rate"), [(0.0, 22050), (-1.0, 22050), (1.0, 0)])
def test_no_time_has_no_speed(seconds, rate):
    with pytest.raises(ValueError, match="time and rate must be positive"):
        real_time_factor(100, seconds, rate)


def test_griffin_lim_has_the_length_and_nearly_the_mel_of_the_original(voice):
    mel = mel_of(voice)
    wav = griffin_lim(mel, CONFIG, iterations=30)
    assert wav.shape == voice.shape and wav.dtype == np.float32
    assert log_mel_distance(mel_of(wav), mel) < 0.5
    assert wav.std() == pytest.approx(voice.std(), rel=0.2)


def test_griffin_lim_is_not_shifted_in_time(voice):
    """A click comes out where its mel has it, at both ends of the sound as well."""
    for at in (3 * HOP, 30 * HOP, 57 * HOP):
        click = np.zeros_like(voice)
        click[at] = 0.9
        wav = griffin_lim(mel_of(click), CONFIG, iterations=30)
        energy = wav.astype(np.float64) ** 2
        assert abs((energy * np.arange(len(wav))).sum() / energy.sum() - at) < HOP


def test_griffin_lim_is_a_function_of_mel_and_seed(voice):
    mel = mel_of(voice[: 10 * HOP])
    first, again, other = (griffin_lim(mel, CONFIG, iterations=2, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("rate", [16000, 24000])
def test_griffin_lim_takes_other_mels(rate):
    config = MelConfig(rate, n_fft=800, win_length=700, hop_length=200, n_mels=40, fmax=rate / 2)
    wav = 0.1 * np.random.default_rng(0).normal(size=9 * 200).astype(np.float32)
    mel = log_mel(torch.from_numpy(wav), config).numpy()
    assert griffin_lim(mel, config, iterations=2).shape == wav.shape


def test_the_noise_has_the_energy_of_the_original_frame_by_frame():
    loudness = np.repeat(np.linspace(0.01, 0.3, 200), HOP)
    original = (loudness * np.random.default_rng(1).normal(size=len(loudness))).astype(np.float32)
    noise = noise_with_envelope(original, CONFIG)
    rms = [np.sqrt((wav.reshape(200, HOP) ** 2).mean(axis=1)) for wav in (noise, original)]
    assert noise.dtype == np.float32
    assert np.median(rms[0] / rms[1]) == pytest.approx(1.0, abs=0.02)
    assert np.abs(np.log(rms[0] / rms[1])).max() < 0.4


def test_the_noise_is_white():
    noise = noise_with_envelope(np.full(400 * HOP, 0.1, np.float32), CONFIG)
    power = (np.abs(np.fft.rfft(noise)) ** 2)[1:].reshape(8, -1).mean(axis=1)
    assert power.max() / power.min() < 1.1


def test_the_noise_is_silent_where_the_original_is_and_a_function_of_the_seed():
    wav = np.zeros(10 * HOP + 77, np.float32)
    wav[: 4 * HOP] = 0.1
    noise = noise_with_envelope(wav, CONFIG, seed=3)
    assert noise.shape == (10 * HOP,)
    assert not noise[5 * HOP :].any()
    assert np.array_equal(noise, noise_with_envelope(wav, CONFIG, seed=3))
    assert not np.array_equal(noise, noise_with_envelope(wav, CONFIG, seed=4))


def test_less_than_a_frame_has_no_envelope():
    with pytest.raises(ValueError, match="255 samples is shorter than one frame of 256"):
        noise_with_envelope(np.zeros(255, np.float32), CONFIG)
