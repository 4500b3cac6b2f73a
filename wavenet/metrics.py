"""How far a waveform is from the recording, how long it took, and the two baselines that are not neural.

The measures compare a degraded waveform (T,) with its reference (T,), both at `rate` Hz and aligned sample by sample:
nothing is shifted, warped or levelled before they are compared, except where a measure says that it does so itself.
"""

import math
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from data.audio import PCM_SCALE, resample
from data.mel import MelConfig, log_mel, mel_filters
from wavenet.kernels.reference import interpolate_frames

Wave = NDArray[np.float32]  # (T,)
Mel = NDArray[np.float32]  # (M, L), natural logarithms
Contour = NDArray[np.float32]  # (frames,), F0 in Hz, 0 where there is no voice

PESQ_RATE = 16000  # Hz, of ITU-T P.862.2
STOI_SECONDS = 0.4  # one of its segments: 30 frames 12.8 ms apart
CEPSTRA = 13  # coefficients of the mel-cepstrum, without that of the level
CEPSTRAL_BANDS = 40  # mel bands that they are taken of
SPEECH_DB = 40.0  # frames so much below the loudest are silence
STFT_SIZES = (512, 1024, 2048)
STFT_FLOOR = 1e-7  # of |STFT|^2, before roots and logarithms
ROUNDING = 1 / PCM_SCALE**2 / 12  # mean square of the error of 16-bit samples: nothing quieter is heard
QUIETEST = 0.05  # share of the frames that make the silence floor


class MeasureError(ValueError):
    """A pair of waveforms for which a measure has no value: too short, silent, without voice."""


def pesq_wb(reference: Wave, degraded: Wave, rate: int) -> float:
    """Wide-band PESQ, a predicted mean opinion score from 1.0 to 4.64 (ITU-T P.862.2), at 16 kHz after resampling.

    It aligns the two in time and level by itself: neither a constant delay nor a gain matters.

    Raises:
        MeasureError: shorter than a quarter of a second, or without an utterance.
    """
    from pesq import BufferTooShortError, NoUtterancesError, pesq

    _check_pair(reference, degraded)
    if not (reference.any() and degraded.any()):
        raise MeasureError("PESQ needs sound: one of the two is digital silence")
    try:
        return float(pesq(PESQ_RATE, *(resample(wav, rate, PESQ_RATE) for wav in (reference, degraded)), "wb"))
    except BufferTooShortError:
        raise MeasureError(f"PESQ needs a quarter of a second, not {len(reference) / rate:.2f} s") from None
    except NoUtterancesError:
        raise MeasureError("PESQ finds no utterance") from None


def stoi(reference: Wave, degraded: Wave, rate: int) -> float:
    """Short-time objective intelligibility, at most 1 (Taal et al. 2011), at 10 kHz after resampling.

    Frames in which the reference is 40 dB below its loudest are left out. A gain does not matter.

    Raises:
        MeasureError: less than 0.4 s of speech.
    """
    from pystoi import stoi as measure

    _check_pair(reference, degraded)
    if len(reference) < STOI_SECONDS * rate:
        raise MeasureError(f"STOI needs {STOI_SECONDS} s, not {len(reference) / rate:.2f} s")
    if not reference.any():
        raise MeasureError("STOI needs sound: the reference is digital silence")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Not enough STFT frames", RuntimeWarning)
        try:
            return float(measure(reference, degraded, rate))
        except RuntimeWarning:
            raise MeasureError(f"STOI needs {STOI_SECONDS} s that are not silent") from None


def log_mel_distance(a: Mel, b: Mel) -> float:
    """Mean absolute difference of two log-mels, in nats (8.69 dB). A gain matters.

    Raises:
        ValueError: the shapes differ, or there are no frames.
    """
    if a.shape != b.shape or a.size == 0:
        raise ValueError(f"log-mels of shapes {a.shape} and {b.shape} have no distance: give two of one shape (M, L)")
    return float(np.abs(a.astype(np.float64) - b).mean())


def mel_cepstral_distortion(reference: Wave, degraded: Wave, rate: int) -> float:
    """Mel-cepstral distortion in dB (Kubichek 1993), 0 at best: of how the spectrum's envelope is shaped.

    With Y_m the magnitude in mel band m of M = 40 (Slaney's, from 0 Hz to 8 kHz or half the rate; Hann windows of 25 ms
    every 5 ms), the mel-cepstrum is c_d = 2/M sum_m ln Y_m cos(pi d (m + 1/2) / M), and the distortion
    10 / ln 10 * sqrt(2 sum_{d=1}^{13} (c_d - c'_d)^2): the root mean square, over the bands, of what the 13 smoothest
    shapes of both log spectra differ by. Frames are compared where they stand, without warping; the mean is over those
    in which the reference is at most 40 dB below its loudest. c_0 is left out, so that a gain does not matter.

    Raises:
        MeasureError: shorter than a frame, or a silent reference.
    """
    _check_pair(reference, degraded)
    if not reference.any():
        raise MeasureError("the mel-cepstral distortion needs sound: the reference is digital silence")
    config = _cepstral_mel(rate)
    if len(reference) < config.hop_length:
        raise MeasureError(f"the mel-cepstral distortion needs {config.hop_length} samples, not {len(reference)}")
    logs = [log_mel(torch.from_numpy(wav).double(), config).numpy() for wav in (reference, degraded)]  # (M, L)
    bands = (np.arange(CEPSTRAL_BANDS) + 0.5) / CEPSTRAL_BANDS
    cosines = np.cos(np.pi * np.arange(1, CEPSTRA + 1)[:, None] * bands)  # (13, M)
    difference = 2 / CEPSTRAL_BANDS * cosines @ (logs[0] - logs[1])  # (13, L)
    level = 10 * np.log10(np.exp(2 * logs[0]).sum(axis=0))
    speech = level >= level.max() - SPEECH_DB
    return float((10 / math.log(10) * np.sqrt(2 * (difference[:, speech] ** 2).sum(axis=0))).mean())


def stft_distance(reference: Wave, degraded: Wave) -> float:
    """Multi-resolution STFT distance (Yamamoto et al., arXiv 1910.11480), 0 at best. A gain matters.

    The mean over Hann windows of 512, 1024 and 2048 samples, a quarter apart, of the spectral convergence
    || |X| - |Y| || / || |Y| || plus the mean of |ln |X| - ln |Y||, Y the reference, powers held above 1e-7.

    Raises:
        MeasureError: shorter than the longest window.
    """
    _check_pair(reference, degraded)
    if len(reference) < max(STFT_SIZES):
        raise MeasureError(f"the STFT distance needs {max(STFT_SIZES)} samples, not {len(reference)}")
    distances = []
    for size in STFT_SIZES:
        powers = (_power(wav, size, size // 4).clip(min=STFT_FLOOR) for wav in (reference, degraded))
        target, given = (np.sqrt(power) for power in powers)  # (frames, size / 2 + 1)
        convergence = np.linalg.norm(given - target) / np.linalg.norm(target)
        distances.append(convergence + np.abs(np.log(given / target)).mean())
    return float(np.mean(distances))


def pitch_error(reference: Contour, degraded: Contour) -> float:
    """Median absolute difference of F0, in cents, over the frames that both call voiced. A gain does not matter.

    Raises:
        MeasureError: no such frame.
    """
    both = (reference > 0) & (degraded > 0)
    if not both.any():
        raise MeasureError("the F0 error needs frames that are voiced in both")
    ratio = degraded[both].astype(np.float64) / reference[both]
    return float(np.median(np.abs(1200 * np.log2(ratio))))


def voicing_error(reference: Contour, degraded: Contour) -> float:
    """Share of the frames, 0 to 1, of which the two contours disagree whether they are voiced.

    Raises:
        MeasureError: no frames.
    """
    if not len(reference):
        raise MeasureError("the voicing error needs frames")
    return float(((reference > 0) != (degraded > 0)).mean())


def band_difference(reference: Wave, degraded: Wave, rate: int, low: float, high: float | None = None) -> float:
    """Energy of the degraded waveform in the band from low to high Hz over that of the reference, in dB; 0 at best.

    Above 0 there is too much, below too little; a gain shows in full. `high` None is half the rate. Energy is the mean
    over Hann windows of 1024 samples, 256 apart, and never less than the rounding of 16-bit samples leaves there.

    Raises:
        MeasureError: the band reaches beyond half the rate, or the sound is shorter than a window.
    """
    _check_pair(reference, degraded)
    size, top = 1024, rate / 2 if high is None else high
    if not low < top <= rate / 2:
        raise MeasureError(f"there is no band from {low:g} to {top:g} Hz at a sampling rate of {rate} Hz")
    if len(reference) < size:
        raise MeasureError(f"the energy of a band needs {size} samples, not {len(reference)}")
    frequencies = np.fft.rfftfreq(size, 1 / rate)
    inside = (frequencies >= low) & (frequencies <= top)
    # Both halves of the spectrum together hold size * sum(window^2) times the mean square.
    least = ROUNDING * (top - low) / (rate / 2) * size * (_hann(size) ** 2).sum() / 2
    energies = (max(least, _power(wav, size, 256).mean(axis=0)[inside].sum()) for wav in (reference, degraded))
    target, given = energies
    return float(10 * math.log10(given / target))


def silence_floor(wav: Wave, rate: int) -> float:
    """Level of the quietest 5 % of all frames of 25 ms, in dB of mean square 1: what is heard where nothing is said.

    Never below -101.1 dB, the rounding of 16-bit samples. A gain shows in full.

    Raises:
        MeasureError: shorter than a frame.
    """
    size = round(0.025 * rate)
    if len(wav) < size:
        raise MeasureError(f"the silence floor needs {size} samples, not {len(wav)}")
    frames = wav[: len(wav) // size * size].astype(np.float64).reshape(-1, size)
    powers = np.sort((frames**2).mean(axis=1))
    return float(10 * math.log10(max(ROUNDING, powers[: math.ceil(QUIETEST * len(powers))].mean())))


def bootstrap_interval(
    values: Sequence[float], seed: int = 0, draws: int = 2000, level: float = 0.95
) -> tuple[float, float]:
    """Interval that holds the mean of what the values are drawn from with about so much certainty.

    The percentile bootstrap (Efron 1979): quantiles of the means of `draws` samples of as many values with replacement.

    Raises:
        ValueError: fewer than two values.
    """
    if len(values) < 2:
        raise ValueError(f"{len(values)} values say nothing of their spread: give two or more")
    picks = np.random.default_rng(seed).integers(len(values), size=(draws, len(values)))
    means = np.asarray(values, np.float64)[picks].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def real_time_factor(samples: int, seconds: float, rate: int) -> float:
    """Seconds of sound made per second of computing: "x real time", more is faster.

    Raises:
        ValueError: no time, or no rate.
    """
    if seconds <= 0 or rate < 1:
        raise ValueError(f"{samples} samples in {seconds} s at {rate} Hz have no speed: time and rate must be positive")
    return samples / rate / seconds


def griffin_lim(mel: Mel, config: MelConfig, iterations: int = 60, seed: int = 0) -> Wave:
    """The waveform (L hop,) that Griffin and Lim's iteration finds for a log-mel (M, L) (Perraudin's fast version).

    Magnitudes come from the mel by non-negative least squares. Frames are ours: the first begins (n_fft - hop) / 2
    samples before the sound and nothing is centred, so these samples are cut off on both sides.
    """
    import librosa  # slow to import

    filters = mel_filters(config).numpy().T  # (M, n_fft / 2 + 1)
    magnitude = librosa.util.nnls(filters, np.exp(mel))  # (n_fft / 2 + 1, L)
    padded = librosa.griffinlim(
        magnitude,
        n_iter=iterations,
        hop_length=config.hop_length,
        win_length=config.win_length,
        n_fft=config.n_fft,
        center=False,
        random_state=seed,
    )
    length = mel.shape[1] * config.hop_length
    return padded[config.padding : config.padding + length].astype(np.float32)


def noise_with_envelope(wav: Wave, config: MelConfig, seed: int = 0) -> Wave:
    """White noise with the energy envelope of wav (T,): what a vocoder that learnt the loudness alone would say.

    The envelope is the root mean square of every frame's `hop` samples, interpolated between the frames' centres.

    Returns:
        (L hop,), L = T // hop

    Raises:
        ValueError: wav is shorter than one frame.
    """
    hop = config.hop_length
    L = len(wav) // hop
    if L < 1:
        raise ValueError(f"a waveform of {len(wav)} samples is shorter than one frame of {hop}: give a longer one")
    frames = wav[: L * hop].reshape(L, hop).astype(np.float64)
    rms = torch.from_numpy(np.sqrt((frames**2).mean(axis=1)))
    envelope = interpolate_frames(rms[None, :, None], hop, L * hop)[0, :, 0].numpy()  # (T,)
    noise = np.random.default_rng(seed).standard_normal(L * hop)
    return (envelope * noise).astype(np.float32)


def _check_pair(reference: Wave, degraded: Wave) -> None:
    if reference.ndim != 1 or reference.shape != degraded.shape:
        raise ValueError(
            f"waveforms of shapes {reference.shape} and {degraded.shape} cannot be compared: give two of one shape (T,)"
        )


def _cepstral_mel(rate: int) -> MelConfig:
    """Windows of 25 ms, padded so that no mel band falls between two frequencies."""
    return MelConfig(
        sample_rate=rate,
        n_fft=2 ** math.ceil(math.log2(0.05 * rate)),
        win_length=round(0.025 * rate),
        hop_length=2 * round(0.0025 * rate),
        n_mels=CEPSTRAL_BANDS,
        fmax=min(8000.0, rate / 2),
        floor=1e-10,
    )


def _hann(size: int) -> NDArray[np.float64]:
    return np.hanning(size + 1)[:-1]


def _power(wav: Wave, size: int, hop: int) -> NDArray[np.float64]:
    """|STFT|^2 of the windows inside wav (T,), (frames, size / 2 + 1)."""
    frames = np.lib.stride_tricks.sliding_window_view(wav.astype(np.float64), size)[::hop]
    return np.abs(np.fft.rfft(frames * _hann(size))) ** 2
