import math

import numpy as np
import pytest
import torch

from data.espeak import speak
from data.mel import MelConfig, log_mel
from data.pitch import fundamental
from wavenet.metrics import (
    MeasureError,
    band_difference,
    bootstrap_interval,
    griffin_lim,
    log_mel_distance,
    mel_cepstral_distortion,
    noise_with_envelope,
    pesq_wb,
    pitch_error,
    real_time_factor,
    silence_floor,
    stft_distance,
    stoi,
    voicing_error,
)

CONFIG = MelConfig()
HOP, RATE = CONFIG.hop_length, CONFIG.sample_rate


@pytest.fixture(scope="module")
def voice():
    """A gliding buzz of 20 harmonics with syllables of different loudness, 60 frames."""
    t = np.arange(60 * HOP) / CONFIG.sample_rate
    phase = 2 * np.pi * (120 * t + 30 * t**2)
    buzz = sum(np.sin(k * phase) / k for k in range(1, 21))
    return (0.1 * buzz * (0.05 + np.sin(2 * np.pi * 3 * t) ** 2)).astype(np.float32)


@pytest.fixture(scope="module")
def speech():
    """A sentence of eSpeak's at 22 050 Hz, with a room's noise, (T,)."""
    wav, rate = speak("The quick brown fox jumps over the lazy dog.", "en-us")
    assert rate == RATE
    return (wav + 1e-4 * np.random.default_rng(0).standard_normal(len(wav))).astype(np.float32)


def noisy(wav, snr):
    """wav with white noise, its power snr dB below."""
    noise = np.random.default_rng(5).standard_normal(len(wav))
    return (wav + noise * wav.std() / 10 ** (snr / 20)).astype(np.float32)


def filtered(wav, gain):
    """wav with every frequency f, in Hz, times gain(f)."""
    spectrum = np.fft.rfft(wav) * gain(np.fft.rfftfreq(len(wav), 1 / RATE))
    return np.fft.irfft(spectrum, len(wav)).astype(np.float32)


def of_contours(measure):
    return lambda reference, degraded: measure(*(fundamental(wav, RATE, 110) for wav in (reference, degraded)))


f0_error = of_contours(pitch_error)


MEASURES = {  # (reference, degraded) -> value, the value of equals, the sign of what is worse, whether a gain matters
    "pesq": (lambda a, b: pesq_wb(a, b, RATE), 4.644, -1, False),
    "stoi": (lambda a, b: stoi(a, b, RATE), 1, -1, False),
    "log-mel": (lambda a, b: log_mel_distance(mel_of(a), mel_of(b)), 0, 1, True),
    "mcd": (lambda a, b: mel_cepstral_distortion(a, b, RATE), 0, 1, False),
    "stft": (stft_distance, 0, 1, True),
    "f0": (f0_error, 0, 1, False),
    "voicing": (of_contours(voicing_error), 0, 1, False),
    "high band": (lambda a, b: band_difference(a, b, RATE, 4000), 0, 1, True),
    "floor": (lambda a, b: silence_floor(b, RATE) - silence_floor(a, RATE), 0, 1, True),
}


def mel_of(wav):
    return log_mel(torch.from_numpy(wav), CONFIG).numpy()


@pytest.mark.parametrize("name", MEASURES)
def test_nothing_is_better_than_the_original_itself(speech, name):
    measure, best, _, _ = MEASURES[name]
    assert measure(speech, speech) == pytest.approx(best, abs=1e-3)


@pytest.mark.parametrize("name", MEASURES)
def test_more_noise_is_worse(speech, name):
    measure, best, worse, _ = MEASURES[name]
    values = [best, *(measure(speech, noisy(speech, snr)) for snr in (30, 15, 0))]
    assert (np.diff(values) * worse > 0).all(), values


@pytest.mark.parametrize("name", MEASURES)
def test_a_gain_matters_where_the_docstring_says_so(speech, name):
    measure, _, _, matters = MEASURES[name]
    given = speech if matters else noisy(speech, 20)
    change = measure(speech, np.float32(0.5) * given) - measure(speech, given)
    assert abs(change) > 0.1 if matters else abs(change) < 0.02


@pytest.mark.parametrize("name", sorted(MEASURES.keys() - {"floor", "f0", "voicing", "log-mel"}))
def test_waveforms_of_two_lengths_are_not_compared(speech, name):
    with pytest.raises(ValueError, match="give two of one shape"):
        MEASURES[name][0](speech, speech[:-1])


@pytest.mark.parametrize("name", ["pesq", "stoi", "mcd", "stft", "f0", "voicing", "high band", "floor"])
def test_a_sound_too_short_to_measure_has_no_value(speech, name):
    few = speech[5000:5100]
    with pytest.raises(MeasureError, match="need"):
        MEASURES[name][0](few, few)


@pytest.mark.parametrize("name", ["pesq", "stoi", "mcd", "f0"])
def test_silence_has_no_value(speech, name):
    with pytest.raises(MeasureError, match="need"):
        MEASURES[name][0](np.zeros_like(speech), speech)


@pytest.mark.parametrize("name", sorted(MEASURES.keys() - {"pesq", "f0"}))
def test_a_voice_that_says_nothing_has_figures_all_the_same(speech, name):
    measure, best, _, _ = MEASURES[name]
    assert math.isfinite(value := measure(speech, np.zeros_like(speech)))
    assert abs(value - best) > 0.1
    if name == "stft":
        assert value > 1  # of the convergence alone


def test_a_burst_alone_is_no_utterance():
    burst = np.zeros(RATE, np.float32)
    burst[RATE // 2 :][:400] = 0.1 * np.random.default_rng(0).standard_normal(400)
    with pytest.raises(MeasureError, match="no utterance"):
        pesq_wb(burst, burst, RATE)


def test_the_mel_cepstral_distortion_is_that_of_its_definition():
    """A ripple of a cos(pi d m) over the mel scale, 0 <= m <= 1 up to 8 kHz, in ln magnitude: 10 / ln 10 sqrt(2) a dB,
    and little where d is beyond the 13th."""
    noise = 0.1 * np.random.default_rng(0).standard_normal(4 * RATE)

    def slaney(hertz):
        hertz = np.minimum(hertz, 8000)
        return np.where(hertz < 1000, hertz * 3 / 200, 15 + np.log(np.maximum(hertz, 1) / 1000) * 27 / np.log(6.4))

    def ripple(d):
        return filtered(noise, lambda f: np.exp(0.5 * np.cos(np.pi * d * slaney(f) / slaney(8000.0))))

    expected = 10 / math.log(10) * math.sqrt(2) * 0.5
    assert mel_cepstral_distortion(noise, ripple(2), RATE) == pytest.approx(expected, rel=0.03)
    assert mel_cepstral_distortion(noise, ripple(25), RATE) < 0.25 * expected


def test_the_mel_cepstral_distortion_hears_speech_only(speech):
    silence = np.zeros(RATE, np.float32)
    hiss = (1e-4 * np.random.default_rng(2).standard_normal(RATE)).astype(np.float32)
    alone = mel_cepstral_distortion(speech, noisy(speech, 20), RATE)
    followed = [np.concatenate(parts) for parts in ((speech, silence), (noisy(speech, 20), hiss))]
    assert mel_cepstral_distortion(*followed, RATE) == pytest.approx(alone, rel=0.05)


@pytest.mark.parametrize("cents", [100, -250])
def test_a_shift_of_pitch_is_read_in_cents(cents):
    t = np.arange(2 * RATE) / RATE

    def source(f0):
        phase = 2 * np.pi * f0 * (t + 0.02 * np.sin(2 * np.pi * t))
        return 0.05 * sum(np.sin(k * phase) for k in range(1, 15)).astype(np.float32)

    assert f0_error(source(150.0), source(150.0 * 2 ** (cents / 1200))) == pytest.approx(abs(cents), abs=1)


def test_voicing_is_wrong_where_only_one_of_the_two_is_voiced():
    a, b = np.array([100.0, 100, 100, 0]), np.array([110.0, 110, 0, 0])
    assert voicing_error(a, b) == 0.25
    assert pitch_error(a, b) == pytest.approx(1200 * math.log2(1.1))
    with pytest.raises(MeasureError, match="voiced in both"):
        pitch_error(a, np.zeros(4))


def test_a_cut_of_6_db_above_4_khz_is_found_there_and_nowhere_else(speech):
    cut = filtered(speech, lambda f: np.where(f > 4000, 0.5, 1.0))
    found = [band_difference(speech, cut, RATE, *band) for band in ((0, 1000), (1000, 2000), (2000, 3900))]
    assert np.allclose(found, 0, atol=0.05)
    found = [band_difference(speech, cut, RATE, *band) for band in ((4100, 8000), (8000, 11000), (4100, None))]
    assert np.allclose(found, -6.02, atol=0.1)


def test_a_band_beyond_half_the_rate_has_no_energy_to_compare(speech):
    for band in ((8000, 11026), (11025, None)):
        with pytest.raises(MeasureError, match="no band from"):
            band_difference(speech, speech, RATE, *band)


def test_an_empty_band_is_never_quieter_than_the_rounding_of_its_file(speech):
    """Taking away what 16 bits cannot hold anyway is no difference."""
    low = filtered(speech, lambda f: f < 4000)
    rounding = (np.random.default_rng(0).uniform(-0.5, 0.5, len(low)) / 32768).astype(np.float32)
    assert band_difference(low + rounding, low, RATE, 5000, 10000) == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("level", [-80, -60, -40])
def test_the_floor_is_the_level_of_the_noise_in_pauses(level):
    t = np.arange(3 * RATE) / RATE
    tone = 0.3 * np.sin(2 * np.pi * 200 * t) * (t % 1 < 0.7)
    noise = 10 ** (level / 20) * np.random.default_rng(0).standard_normal(len(t))
    assert silence_floor((tone + noise).astype(np.float32), RATE) == pytest.approx(level, abs=1)


def test_digital_silence_is_as_quiet_as_16_bits_are():
    assert silence_floor(np.zeros(RATE, np.float32), RATE) == pytest.approx(-101.1, abs=0.05)


def test_the_interval_holds_the_mean_and_shrinks_with_more_values():
    values = np.random.default_rng(0).normal(3, 1, 1600)
    widths = []
    for count in (25, 100, 400, 1600):
        low, high = bootstrap_interval(values[:count])
        assert low < values[:count].mean() < high
        widths.append(high - low)
        assert high - low == pytest.approx(2 * 1.96 * values[:count].std() / math.sqrt(count), rel=0.1)
    assert widths == sorted(widths, reverse=True)


def test_the_interval_covers_as_often_as_it_says():
    values = np.random.default_rng(1).exponential(size=(400, 40))
    intervals = [bootstrap_interval(row, draws=400) for row in values]
    assert np.mean([low < 1 < high for low, high in intervals]) == pytest.approx(0.93, abs=0.03)


def test_the_interval_is_a_function_of_values_and_seed():
    values = [1.0, 2.0, 4.0, 8.0]
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3, draws=50) != bootstrap_interval(values, seed=4, draws=50)
    with pytest.raises(ValueError, match="give two or more"):
        bootstrap_interval([1.0])


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
