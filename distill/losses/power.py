"""The spectral loss: a student that minimises the KL alone whispers (Parallel WaveNet, arXiv 1711.10433, section 4).

Views of the power spectrogram P = |STFT|^2, at several resolutions: frame by frame, where frames line up with the real
speech; the same for the high band alone, which hisses where the loud low bands have all the say; for the few bins under
the lowest voice, which rumble or stand off zero where nothing else, not even the mel, looks; and averaged over time,
where only the level of every frequency counts.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

Distance = Callable[[Tensor, Tensor], Tensor]  # of two power spectrograms (B, frames, F), a mean

POWER_FLOOR = 1e-7
MAIN_LOBE = 2  # bins of a Hann window's main lobe beside its centre: so far does a tone outside a band reach into it


@dataclass
class PowerConfig:
    """The spectral loss.

    Args:
        fft_sizes: samples per window of every resolution; windows advance by a quarter.
        frame_weight: of the frame-by-frame terms, spectral convergence and log magnitude.
        high_weight: of a frame-by-frame term above `high_edge` alone.
        high_edge: Hz, where the high band begins.
        low_weight: of the same below `low_edge`, where a mel sees nothing; small, for its slope is steep.
        low_edge: Hz, where the low band ends: below every voice.
        mean_weight: of the time-averaged term.
        mel_weight: of the mean distance of the log-mels, nats: what the student is given, it has to give back (the mel
            loss of HiFi-GAN, arXiv 2010.05646, section 2.4). With all weights 0 the loss is left out.
    """

    fft_sizes: list[int] = field(default_factory=lambda: [512, 1024, 2048])
    frame_weight: float = 1.0
    mean_weight: float = 1.0
    high_weight: float = 1.0
    high_edge: float = 3000.0
    low_weight: float = 0.003
    low_edge: float = 60.0
    mel_weight: float = 5.0

    def __post_init__(self) -> None:
        if not self.fft_sizes or min(self.fft_sizes) < 4:
            raise ValueError(
                f"power.fft_sizes is {self.fft_sizes}, but needs sizes of at least 4, as [512, 1024, 2048]"
            )
        for name in ("frame_weight", "mean_weight", "high_weight", "low_weight", "mel_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"power.{name} is {getattr(self, name)}, but must be finite and not negative")
        for name, example in (("high_edge", 3000), ("low_edge", 60)):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(
                    f"power.{name} is {getattr(self, name)}, but must be a positive frequency in Hz, as {example}"
                )

    @property
    def counts(self) -> bool:
        """Whether any term has a weight."""
        return any((self.frame_weight, self.mean_weight, self.high_weight, self.low_weight, self.mel_weight))

    def edges(self, sample_rate: int) -> "Edges":
        """Of the bands that count.

        Raises:
            ValueError: at this sampling rate, the shortest window has no bin in the high band.
        """
        low = self.low_edge / sample_rate if self.low_weight else None
        high = self.high_edge / sample_rate if self.high_weight else None
        if high is not None and not range(min(self.fft_sizes) // 2 + 1)[bins_above(high, min(self.fft_sizes))]:
            raise ValueError(
                f"power.high_edge is {self.high_edge:g} Hz, and windows of {min(self.fft_sizes)} samples see nothing "
                f"above it at {sample_rate} Hz: lower it, or set power.high_weight=0"
            )
        return Edges(low, high)


class Edges(NamedTuple):
    """Where the low band ends and the high band begins, in cycles a sample; None: without that band."""

    low: float | None = None
    high: float | None = None


NO_BANDS = Edges()


@dataclass
class SpectralDistance:
    """Means over clips and resolutions; each () and 0 for equal signals."""

    convergence: Tensor
    log_magnitude: Tensor
    mean_power: Tensor
    low_band: Tensor | None  # None: none was asked for
    high_band: Tensor | None


def bins_below(edge: float, fft_size: int) -> slice:
    """Those that a tone above `edge`, in cycles a sample, reaches only by the window's side lobes; at least bin 0."""
    return slice(max(1, math.floor(edge * fft_size) - MAIN_LOBE + 1))


def bins_above(edge: float, fft_size: int) -> slice:
    """Those that a tone below `edge`, in cycles a sample, reaches only by the window's side lobes; perhaps none."""
    return slice(math.ceil(edge * fft_size) + MAIN_LOBE, fft_size // 2 + 1)


def power_spectrogram(wav: Tensor, fft_size: int) -> Tensor:
    """max(|STFT|^2, 1e-7): (B, T) -> (B, frames, fft_size / 2 + 1), float32 or wider, whatever autocast says.

    Periodic Hann window, no padding: every window lies inside the signal, so none sees a made-up edge. The window is
    not normalised: white noise of rms r has the power 3/8 fft_size r^2, so for 1024 samples the floor is at r = 1.6e-5,
    half a 16-bit level. It applies at the network's level, which is the file's times the corpus' gain. Below the floor
    the gradient is zero; above it those of the square root and the logarithm are bounded.

    Raises:
        ValueError: a signal shorter than a window.
    """
    if wav.shape[-1] < fft_size:
        raise ValueError(
            f"the spectral loss has windows of {fft_size} samples, but the signal has {wav.shape[-1]}: "
            "train on longer crops or take smaller power.fft_sizes"
        )
    with torch.autocast(wav.device.type, enabled=False):
        exact = wav.to(torch.promote_types(wav.dtype, torch.float32))
        window = torch.hann_window(fft_size, dtype=exact.dtype, device=exact.device)
        frames = exact.unfold(-1, fft_size, max(1, fft_size // 4)) * window  # (B, frames, fft_size)
        spectrum = torch.fft.rfft(frames)
        return (spectrum.real.square() + spectrum.imag.square()).clamp(min=POWER_FLOOR)


def spectral_distance(x: Tensor, target: Tensor, fft_sizes: list[int], edges: Edges = NO_BANDS) -> SpectralDistance:
    """How far the spectra of x (B, T) are from those of the target (B, T).

    convergence: || |X| - |Y| || / || |Y| ||, the norm over the spectrogram of a clip, and
    log_magnitude: mean of |ln |X| - ln |Y||, both as in Parallel WaveGAN's multi-resolution loss (arXiv 1910.11480).
    low_band, high_band: || |X| - |Y| || / (||X|| + ||Y||) + mean |ln |X| - ln |Y|| over that band alone: a few bins, or
    some 30 dB below the rest. Magnitudes that do not match are best made quieter for a norm over ||Y||, that is dull;
    this one is least at the right level, and at most 1 where a vowel has next to nothing there.
    mean_power: mean over frequencies of |ln mean_t |X|^2 - ln mean_t |Y|^2|, the relative error of the time-averaged
    power (Parallel WaveNet's power loss is its squared absolute error, which the loudest bands rule).
    """
    spectra = [(size, power_spectrogram(x, size), power_spectrogram(target, size)) for size in fft_sizes]

    def mean(distance: Distance, bins: Callable[[int], slice] = lambda _: slice(None)) -> Tensor:
        distances = [distance(power[..., bins(size)], real[..., bins(size)]) for size, power, real in spectra]
        return torch.stack(distances).mean()

    return SpectralDistance(
        mean(_convergence),
        mean(_log_magnitude),
        mean(_mean_power),
        None if edges.low is None else mean(_band, partial(bins_below, edges.low)),
        None if edges.high is None else mean(_band, partial(bins_above, edges.high)),
    )


def _convergence(power: Tensor, target: Tensor) -> Tensor:
    return (_norm(power.sqrt() - target.sqrt()) / _norm(target.sqrt())).mean()


def _mean_power(power: Tensor, target: Tensor) -> Tensor:
    return (power.mean(dim=1).log() - target.mean(dim=1).log()).abs().mean()


def _band(power: Tensor, target: Tensor) -> Tensor:
    x, y = power.sqrt(), target.sqrt()
    return (_norm(x - y) / (_norm(x) + _norm(y))).mean() + _log_magnitude(power, target)


def _log_magnitude(power: Tensor, target: Tensor) -> Tensor:
    return 0.5 * (power.log() - target.log()).abs().mean()


def _norm(magnitudes: Tensor) -> Tensor:
    return torch.linalg.vector_norm(magnitudes, dim=(1, 2))  # (B,)
