"""The log-mel spectrogram: one definition for preparation, training, evaluation and inference.

HiFi-GAN's convention (Kong et al. 2020, arXiv 2010.05646, and its public code), so that mels of existing acoustic
models fit: reflect padding of (n_fft - hop) / 2 on both sides and no further centring, hence L = T // hop frames, frame
l centred at sample (l + 1/2) hop; periodic Hann window; magnitudes; Slaney filters of unit area; ln(max(mel, floor)).
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import data.exact  # noqa: F401 -- for what its import does
from data.arrays import load_npy

POWER_FLOOR = 1e-20  # keeps sqrt differentiable at digital silence; 1e-10 in magnitude is far below any mel floor
GAIN_LIMIT = 4.0  # a mel stored with floor / GAIN_LIMIT gives that of g times the waveform, g <= GAIN_LIMIT, exactly
BELOW, ABOVE = 1.5, 2.0  # nats by which an acoustic model's mel may overshoot what a recording can reach


class MelError(ValueError):
    """A mel spectrogram, or a waveform for one, that cannot be used."""


@dataclass
class MelConfig:
    """What a log-mel is made of; it decides what a vocoder understands, so every checkpoint stores it."""

    sample_rate: int = 22050  # Hz
    n_fft: int = 1024  # samples, as win_length and hop_length
    win_length: int = 1024
    hop_length: int = 256
    n_mels: int = 80
    fmin: float = 0.0  # Hz
    fmax: float = 8000.0  # Hz
    floor: float = 1e-5  # least magnitude in a band, before the logarithm

    def __post_init__(self) -> None:
        nyquist, n_fft, padded = self.sample_rate / 2, self.n_fft, self.n_fft - self.hop_length
        rules = {
            f"sample_rate must be positive, not {self.sample_rate}": self.sample_rate > 0,
            f"hop_length must be from 1 to n_fft = {n_fft}, not {self.hop_length}": 0 < self.hop_length <= n_fft,
            f"win_length must be from 1 to n_fft = {n_fft}, not {self.win_length}": 0 < self.win_length <= n_fft,
            f"n_fft - hop_length must be even (half of it pads each side), not {padded}": padded % 2 == 0,
            f"n_mels must be positive, not {self.n_mels}": self.n_mels > 0,
            f"0 <= fmin < fmax <= {nyquist} (half the sampling rate) must hold, not {self.fmin}, {self.fmax}": (
                0 <= self.fmin < self.fmax <= nyquist
            ),
            f"floor must be positive, not {self.floor}": self.floor > 0,
        }
        broken = [rule for rule, holds in rules.items() if not holds]
        if broken:
            raise ValueError("MelConfig: " + "; ".join(broken))

    @property
    def padding(self) -> int:
        """Samples reflected on each side."""
        return (self.n_fft - self.hop_length) // 2


class _Float64Linspace(TorchFunctionMode):
    """`melscale_fbanks` has no dtype argument, and its float32 grid costs a tone at a filter's foot up to 2e-3 nats.
    Unlike torch.set_default_dtype, this touches no other thread."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        float64 = {"dtype": torch.float64} if func is torch.linspace else {}
        return func(*args, **(kwargs or {}), **float64)


def mel_filters(config: MelConfig) -> Tensor:
    """The Slaney filter bank, (n_fft / 2 + 1, M) in float64."""
    from torchaudio.functional import melscale_fbanks  # heavy: only who takes a mel pays for it

    with _Float64Linspace():
        return melscale_fbanks(
            config.n_fft // 2 + 1,
            config.fmin,
            config.fmax,
            config.n_mels,
            config.sample_rate,
            norm="slaney",
            mel_scale="slaney",
        )


class LogMel(nn.Module):
    """`log_mel` with its window and filter bank kept: for many calls. Nothing of it is learnt or saved."""

    window: Tensor
    filters: Tensor

    def __init__(self, config: MelConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("window", torch.hann_window(config.win_length, dtype=torch.float64), False)
        self.register_buffer("filters", mel_filters(config), False)

    def forward(self, wav: Tensor) -> Tensor:
        """(..., T) -> (..., M, L), L = T // hop; see `log_mel`."""
        config, T = self.config, wav.shape[-1]
        if config.hop_length > T:
            raise MelError(
                f"a waveform of {T} samples is shorter than one frame of {config.hop_length}; give a longer one"
            )
        exact = wav.to(torch.promote_types(wav.dtype, torch.float32)).reshape(-1, T)  # half precision has no FFT
        # Reflection needs more samples than it adds: what is shorter goes on with silence.
        exact = F.pad(exact, (0, max(0, config.padding + 1 - T)))
        exact = F.pad(exact[:, None], (config.padding, config.padding), mode="reflect")[:, 0]
        with torch.autocast(wav.device.type, enabled=False):
            spectrum = torch.stft(
                exact,
                config.n_fft,
                config.hop_length,
                config.win_length,
                self.window.to(exact),
                center=False,
                return_complex=True,
            )[..., : T // config.hop_length]  # (B, n_fft / 2 + 1, L)
            mel = log_bands(spectrum, self.filters.to(exact), config.floor).to(wav.dtype)  # (B, M, L)
        return mel.reshape(*wav.shape[:-1], *mel.shape[1:])


def log_bands(spectrum: Tensor, filters: Tensor, floor: float) -> Tensor:
    """Complex (B, F, L) and filters (F, M) -> (B, M, L), nats: magnitudes, bands, and no band below the floor."""
    power = spectrum.real.square() + spectrum.imag.square()
    return (filters.T @ power.clamp(min=POWER_FLOOR).sqrt()).clamp(min=floor).log()


def log_mel(wav: Tensor, config: MelConfig) -> Tensor:
    """Log-mel spectrogram of a waveform, differentiable, on its device and in its dtype.

    Args:
        wav: (..., T) at `config.sample_rate`.

    Returns:
        (..., M, L) natural logarithms of band magnitudes, L = T // hop; frame l is centred at sample (l + 1/2) hop.

    Raises:
        MelError: T < hop_length, so that not one frame exists.
    """
    return LogMel(config)(wav)


def gained_mel(stored: npt.NDArray[np.float32], gain: float, config: MelConfig) -> npt.NDArray[np.float32]:
    """log_mel(gain * wav, config) out of `stored` = log_mel(wav) with floor / GAIN_LIMIT, for 0 < gain <= GAIN_LIMIT.

    The magnitudes are homogeneous: max(ln(g m), ln floor) = max(ln m + ln g, ln floor), and where m is below the stored
    floor, g m is below the config's.
    """
    assert 0 < gain <= GAIN_LIMIT
    return np.maximum(stored + np.float32(math.log(gain)), np.float32(math.log(config.floor)))


def check_mel(mel: Tensor | npt.NDArray[np.floating], config: MelConfig) -> None:
    """Refuse what is not a log-mel (M, L) or (B, M, L) of this config.

    Raises:
        MelError: wrong shape or dtype, zero frames, transposed, NaN or infinity, or values that no natural-log mel of
            this config takes (decibels, another floor).
    """
    shape, M = tuple(mel.shape), config.n_mels
    if len(shape) not in (2, 3):
        raise MelError(f"a mel has the shape ({M}, L) or (B, {M}, L), not {shape}")
    if shape[-2] != M and shape[-1] == M:
        raise MelError(f"a mel has the shape ({M}, L), not {shape}: it looks transposed; give mel.T")
    if shape[-2] != M:
        raise MelError(f"a mel needs {M} bands, not {shape[-2]} (shape {shape}); use the MelConfig of the checkpoint")
    if shape[0] == 0:
        raise MelError(f"a batch of zero mels (shape {shape}) says nothing; give at least one")
    if shape[-1] == 0:
        raise MelError(f"the mel has zero frames (shape {shape}); give at least one")
    floating = mel.is_floating_point() if isinstance(mel, Tensor) else np.issubdtype(mel.dtype, np.floating)
    if not floating:
        raise MelError(f"a mel holds floating-point numbers, not {mel.dtype}; give natural logarithms as float32")
    low, high = float(mel.min()), float(mel.max())  # both are NaN where any value is
    if not (math.isfinite(low) and math.isfinite(high)):
        raise MelError("the mel holds NaN or infinity; use ln(max(mel, floor))")
    least, most = mel_range(config)
    if low < least - BELOW or high > most + ABOVE:
        raise MelError(
            f"the mel's values go from {low:.1f} to {high:.1f}, those of this MelConfig from {least:.1f} to "
            f"{most:.1f}; is it in decibels, or of another MelConfig? Give natural logarithms of magnitudes"
        )


def mel_range(config: MelConfig) -> tuple[float, float]:
    """The least and the greatest value that a waveform in [-1, 1] reaches.

    |STFT| <= sum(window) = win / 2, and the weights of a filter of unit area sum to n_fft / sample_rate.
    """
    return math.log(config.floor), math.log(config.win_length / 2 * config.n_fft / config.sample_rate)


def load_mel(path: str | os.PathLike[str], config: MelConfig) -> npt.NDArray[np.float32]:
    """Read a `.npy` file with a mel (M, L), or (1, M, L), of this config.

    Raises:
        MelError: the file is missing, not permitted to be read or no plain `.npy` array, or `check_mel` refuses its
            content.
    """
    path = Path(path)
    if not path.is_file():
        raise MelError(f"{path}: there is no such file; check the path")
    try:
        mel = load_npy(path)
    except OSError as error:
        raise MelError(f"{path}: cannot be read ({error.strerror}); mend that, or give another file") from error
    except ValueError as error:
        raise MelError(f"{path}: {error}; save it with np.save(path, mel.astype(np.float32))") from error
    if mel.ndim == 3 and len(mel) == 1:
        mel = mel[0]
    if mel.ndim != 2:
        raise MelError(f"{path}: a mel file holds one array ({config.n_mels}, L), not {mel.shape}")
    try:
        check_mel(mel, config)
    except MelError as error:
        raise MelError(f"{path}: {error}") from None
    return np.array(mel, np.float32)
