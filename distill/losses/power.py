"""The spectral loss: a student that minimises the KL alone whispers (Parallel WaveNet, arXiv 1711.10433, section 4).

Three views of the power spectrogram P = |STFT|^2, at several resolutions: frame by frame, where frames line up with the
real speech; the same for the high band alone, which hisses where the loud low bands have all the say; and averaged over
time, where only the level of every frequency counts.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

POWER_FLOOR = 1e-7
MAIN_LOBE = (
    2  # bins of a Hann window's main lobe beside its centre: so far does a tone below the high band reach into it
)


@dataclass
class PowerConfig:
    """The spectral loss.

    Args:
        fft_sizes: samples per window of every resolution; windows advance by a quarter.
        frame_weight: of the frame-by-frame terms, spectral convergence and log magnitude.
        high_weight: of a frame-by-frame term above `high_edge` alone.
        high_edge: Hz, where the high band begins.
        mean_weight: of the time-averaged term.
        mel_weight: of the mean distance of the log-mels, nats: what the student is given, it has to give back (the mel
            loss of HiFi-GAN, arXiv 2010.05646, section 2.4). With all weights 0 the loss is left out.
    """

    fft_sizes: list[int] = field(default_factory=lambda: [512, 1024, 2048])
    frame_weight: float = 1.0
    mean_weight: float = 1.0
    high_weight: float = 1.0
    high_edge: float = 3000.0
    mel_weight: float = 5.0

    def __post_init__(self) -> None:
        if not self.fft_sizes or min(self.fft_sizes) < 4:
            raise ValueError(
                f"power.fft_sizes is {self.fft_sizes}, but needs sizes of at least 4, as [512, 1024, 2048]"
            )
        for name in ("frame_weight", "mean_weight", "high_weight", "mel_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"power.{name} is {getattr(self, name)}, but must be finite and not negative")
        if not 0 < self.high_edge < math.inf:
            raise ValueError(f"power.high_edge is {self.high_edge}, but must be a positive frequency in Hz, as 3000")

    @property
    def counts(self) -> bool:
        """Whether any term has a weight."""
        return bool(self.frame_weight or self.mean_weight or self.high_weight or self.mel_weight)

    def band(self, sample_rate: int) -> float | None:
        """Where the high band begins, in cycles a sample; None where it does not count.

        Raises:
            ValueError: at this sampling rate, the shortest window has no bin above it.
        """
        if not self.high_weight:
            return None
        edge = self.high_edge / sample_rate
        if first_bin_above(edge, min(self.fft_sizes)) > min(self.fft_sizes) // 2:
            raise ValueError(
                f"power.high_edge is {self.high_edge:g} Hz, and windows of {min(self.fft_sizes)} samples see nothing "
                f"above it at {sample_rate} Hz: lower it, or set power.high_weight=0"
            )
        return edge


@dataclass
class SpectralDistance:
    """Means over clips and resolutions; each () and 0 for equal signals."""

    convergence: Tensor
    log_magnitude: Tensor
    mean_power: Tensor
    high_band: Tensor | None  # None: none was asked for


def first_bin_above(edge: float, fft_size: int) -> int:
    """The first bin that a tone below `edge`, in cycles a sample, reaches only by the window's side lobes."""
    return math.ceil(edge * fft_size) + MAIN_LOBE


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


def spectral_distance(x: Tensor, target: Tensor, fft_sizes: list[int], edge: float | None = None) -> SpectralDistance:
    """How far the spectra of x (B, T) are from those of the target (B, T).

    convergence: || |X| - |Y| || / || |Y| ||, the norm over the spectrogram of a clip, and
    log_magnitude: mean of |ln |X| - ln |Y||, both as in Parallel WaveGAN's multi-resolution loss (arXiv 1910.11480).
    high_band: || |X| - |Y| || / (||X|| + ||Y||) + mean |ln |X| - ln |Y|| over the bins above the edge alone, which lie
    some 30 dB below the rest. Magnitudes that do not match are best made quieter for a norm over ||Y||, that is dull;
    this one is least at the right level, and at most 1 where a vowel has next to nothing up there.
    mean_power: mean over frequencies of |ln mean_t |X|^2 - ln mean_t |Y|^2|, the relative error of the time-averaged
    power (Parallel WaveNet's power loss is its squared absolute error, which the loudest bands rule).

    Args:
        edge: of the high band, in cycles a sample; None for no such term.
    """
    distances = []
    for size in fft_sizes:
        powers = [power_spectrogram(wav, size) for wav in (x, target)]  # (B, frames, F) each
        terms = list(_distances(*powers))
        if edge is not None:
            terms.append(_high_band(*(power[:, :, first_bin_above(edge, size) :] for power in powers)))
        distances.append(torch.stack(terms))
    convergence, log_magnitude, mean_power, *high_band = torch.stack(distances).mean(dim=0)
    return SpectralDistance(convergence, log_magnitude, mean_power, high_band[0] if high_band else None)


def _distances(power: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    convergence = _norm(power.sqrt() - target.sqrt()) / _norm(target.sqrt())  # (B,)
    mean_power = (power.mean(dim=1).log() - target.mean(dim=1).log()).abs()  # (B, F)
    return convergence.mean(), _log_magnitude(power, target), mean_power.mean()


def _high_band(power: Tensor, target: Tensor) -> Tensor:
    x, y = power.sqrt(), target.sqrt()
    return (_norm(x - y) / (_norm(x) + _norm(y))).mean() + _log_magnitude(power, target)


def _log_magnitude(power: Tensor, target: Tensor) -> Tensor:
    return 0.5 * (power.log() - target.log()).abs().mean()


def _norm(magnitudes: Tensor) -> Tensor:
    return torch.linalg.vector_norm(magnitudes, dim=(1, 2))  # (B,)
