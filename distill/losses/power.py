"""The spectral loss: a student that minimises the KL alone whispers (Parallel WaveNet, arXiv 1711.10433, section 4.1).

Two views of the power spectrogram P = |STFT|^2, at several resolutions: frame by frame, where frames line up with the
real speech, and averaged over time, where only the level of every frequency counts.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

POWER_FLOOR = 1e-7


@dataclass
class PowerConfig:
    """The spectral loss.

    Args:
        fft_sizes: samples per window of every resolution; windows advance by a quarter.
        frame_weight: of the frame-by-frame terms, spectral convergence and log magnitude.
        mean_weight: of the time-averaged term. With both weights 0 the loss is left out.
    """

    fft_sizes: list[int] = field(default_factory=lambda: [512, 1024, 2048])
    frame_weight: float = 1.0
    mean_weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.fft_sizes or min(self.fft_sizes) < 4:
            raise ValueError(
                f"power.fft_sizes is {self.fft_sizes}, but needs sizes of at least 4, as [512, 1024, 2048]"
            )
        for name in ("frame_weight", "mean_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"power.{name} is {getattr(self, name)}, but must be finite and not negative")


@dataclass
class SpectralDistance:
    """Means over clips and resolutions; each () and 0 for equal signals."""

    convergence: Tensor
    log_magnitude: Tensor
    mean_power: Tensor


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


def spectral_distance(x: Tensor, target: Tensor, fft_sizes: list[int]) -> SpectralDistance:
    """How far the spectra of x (B, T) are from those of the target (B, T).

    convergence: || |X| - |Y| || / || |Y| ||, the norm over the spectrogram of a clip, and
    log_magnitude: mean of |ln |X| - ln |Y||, both as in Parallel WaveGAN's multi-resolution loss (arXiv 1910.11480).
    mean_power: mean over frequencies of |ln mean_t |X|^2 - ln mean_t |Y|^2|, the relative error of the time-averaged
    power (Parallel WaveNet's power loss is its squared absolute error, which the loudest bands rule).
    """
    distances = [_distance(power_spectrogram(x, size), power_spectrogram(target, size)) for size in fft_sizes]
    return SpectralDistance(*torch.stack([torch.stack(one) for one in distances]).mean(dim=0))


def _distance(power: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    difference = power.sqrt() - target.sqrt()  # (B, frames, F)
    convergence = torch.linalg.vector_norm(difference, dim=(1, 2)) / target.sum(dim=(1, 2)).sqrt()  # (B,)
    log_magnitude = 0.5 * (power.log() - target.log()).abs()
    mean_power = (power.mean(dim=1).log() - target.mean(dim=1).log()).abs()  # (B, F)
    return convergence.mean(), log_magnitude.mean(), mean_power.mean()
