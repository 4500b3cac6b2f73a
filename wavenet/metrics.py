"""How far a waveform is from the recording, how long it took, and the two baselines that are not neural."""

import numpy as np
import torch
from numpy.typing import NDArray

from data.mel import MelConfig, mel_filters
from wavenet.kernels.reference import interpolate_frames

Wave = NDArray[np.float32]  # (T,)
Mel = NDArray[np.float32]  # (M, L), natural logarithms


def log_mel_distance(a: Mel, b: Mel) -> float:
    """Mean absolute difference of two log-mels, in nats (8.69 dB).

    Raises:
        ValueError: the shapes differ, or there are no frames.
    """
    if a.shape != b.shape or a.size == 0:
        raise ValueError(f"log-mels of shapes {a.shape} and {b.shape} have no distance: give two of one shape (M, L)")
    return float(np.abs(a.astype(np.float64) - b).mean())


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
