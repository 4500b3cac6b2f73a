"""KL(p_S || p_T) of the student to the teacher, sample by sample (Parallel WaveNet, arXiv 1711.10433, section 4).

KL = H(p_S, p_T) - H(p_S). One z gives one x, and one pass of the teacher its parameters at every t; both terms are then
sums over t of one-dimensional integrals over x_t alone, given that past. Where the integral has a closed form it is
taken, else x_t is drawn again, many times, from p_S(x_t | z_<t).
"""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.student import Base
from wavenet.distributions import (
    Gaussian,
    MixtureOfLogistics,
    OutputConfig,
    OutputDistribution,
    OutputKind,
    output_distribution,
)

PERIODS = 6  # of the edge, on each side of the low pass


@dataclass
class KLConfig:
    """The Kullback-Leibler divergence in the loss.

    Args:
        weight: of the divergence in nats a sample; 0 leaves the teacher out.
        draws: N, draws of every x_t under a mixture teacher; few of them let the student collapse to a hum.
        regulariser: factor of (ln s_S - ln s_T)^2 beside the closed form of a Gaussian teacher.
        clip: nats of one sample beyond which it counts by its logarithm only: see `clipped`. None: as it is.
        floor: least log scale of a mixture or Gaussian teacher here, at the network's level; its own floor holds as
            well. None: in `wavenet distill` the silence of the corpus, less 10 dB.
        begin: steps before the divergence sets in; until then the teacher is not asked.
        ramp: steps over which its weight then rises linearly.
        end: the step from which it teaches no more, and the teacher is not asked. None: it teaches to the last.
        corrected: the teacher hears the student as everybody will, its mel corrected (`distill.correction`) where they
            read one.
        edge: Hz below which the divergence teaches nothing: see `taught_above`. 0: it teaches everything.
    """

    weight: float = 1.0
    draws: int = 100
    regulariser: float = 4.0
    clip: float | None = 20.0
    floor: float | None = None
    begin: int = 0
    ramp: int = 0
    end: int | None = None
    corrected: bool = False
    edge: float = 0.0

    def __post_init__(self) -> None:
        for name in ("weight", "regulariser", "begin", "ramp", "edge"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"kl.{name} is {getattr(self, name)}, but must be finite and not negative")
        if self.end is not None and self.end <= self.begin:
            raise ValueError(
                f"kl.end is {self.end}, but must be beyond kl.begin={self.begin}, or null; kl.weight=0 leaves the "
                "teacher out"
            )
        if self.draws < 1:
            raise ValueError(f"kl.draws is {self.draws}, but must be at least 1; 100 is usual")
        if self.clip is not None and not 0 < self.clip < math.inf:
            raise ValueError(f"kl.clip is {self.clip}, but must be positive and finite, as 20, or null for none")
        if self.floor is not None and not math.isfinite(self.floor):
            raise ValueError(f"kl.floor is {self.floor}, but a log scale must be finite, as -9, or null")

    def weight_at(self, step: int) -> float:
        """The weight in a step, counted from 0: a function of that alone, so that a resumed run goes on exactly."""
        if step < self.begin or (self.end is not None and step >= self.end):
            return 0.0
        return self.weight * (min(1.0, (step - self.begin + 1) / self.ramp) if self.ramp else 1.0)


@dataclass
class Divergence:
    """KL = cross-entropy - entropy, in nats a sample."""

    cross_entropy: Tensor  # (B, T)
    entropy: Tensor  # (B, T)

    @property
    def kl(self) -> Tensor:
        return self.cross_entropy - self.entropy


def taught_above(edge: float, wav: Tensor) -> Tensor:
    """The same waveform, of which only what lies above the edge takes a gradient.

    A nat weighs the same at every frequency, but speech and hearing live in the lowest kilohertz. There a mel tells the
    harmonics one by one, and the recording teaches more than a teacher that is itself still learning.

    Args:
        edge: in cycles a sample; 0: all of it does.
        wav: (B, T)
    """
    if not edge:
        return wav
    with torch.autocast(wav.device.type, enabled=False):
        low = _low_pass(wav, edge)
        return wav + (low.detach() - low)


def _low_pass(wav: Tensor, edge: float) -> Tensor:
    """What of wav (B, T) lies below the edge, in cycles a sample: by a sinc under a Hann window, T long at most."""
    half = min(round(PERIODS / edge), wav.shape[1] // 2)
    t = torch.arange(-half, half + 1, device=wav.device)
    taps = torch.sinc(2 * edge * t) * torch.hann_window(2 * half + 3, periodic=False, device=wav.device)[1:-1]
    return F.conv1d(wav[:, None], (taps / taps.sum()).to(wav)[None, None], padding=half)[:, 0]


def entropy(log_scale: Tensor, base: Base) -> Tensor:
    """Differential entropy of every sample given the noise before it, in nats: closed form (section 4).

    Logistic: ln s + 2. Normal: ln s + ln(2 pi e) / 2.
    """
    return log_scale + (2.0 if base is Base.logistic else 0.5 * math.log(2 * math.pi * math.e))


def stratified(like: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
    """N uniform draws for every element, one from each N-th of (0, 1): u_i = (i + r_i) / N.

    The variance of a mean over independent draws is of order 1 / N; here it is N^-2, which the tails decide.

    Args:
        like: (...), for shape, dtype and device.

    Returns:
        (..., N)
    """
    r = torch.rand(*like.shape, n, dtype=like.dtype, device=like.device, generator=generator)
    u = (torch.arange(n, dtype=like.dtype, device=like.device) + r) / n
    least = torch.finfo(like.dtype).eps / 2  # rounding can reach 0 and 1, where the quantile is infinite
    return u.clamp(least, 1 - least)


def uniforms(
    teacher: OutputDistribution, like: Tensor, draws: int, generator: torch.Generator | None = None
) -> Tensor | None:
    """What `kl_divergence` draws x_t by: (B, T, N) `stratified` uniforms for a mixture, None for a closed form.

    Several teachers, or one under several conditions, are best scored on the same draws: what differs between the
    divergences is then no noise of sampling.

    Args:
        like: (B, T), for shape, dtype and device.
        generator: torch's own by default.
    """
    return stratified(like, draws, generator) if isinstance(teacher, MixtureOfLogistics) else None


def kl_divergence(
    teacher: OutputDistribution, params: Tensor, loc: Tensor, log_scale: Tensor, base: Base, draws: Tensor | None
) -> Divergence:
    """KL of the student's p_S(x_t | z_<t) to the teacher's p_T(x_t | x_<t), for every t.

    Mixture of logistics: Monte Carlo over the draws of x_t. Mu-law: closed form over the bins and their widths.
    Gaussian: closed form.

    Args:
        params: (B, T, P), the teacher's, from one pass over the student's x.
        loc, log_scale: (B, T), the student's.
        draws: `uniforms` for this teacher.
    """
    return Divergence(teacher.cross_entropy(params, loc, log_scale, draws), entropy(log_scale, base))


def clipped(kl: Tensor, limit: float | None) -> Tensor:
    """KL where it is below the limit, limit * (1 + ln(KL / limit)) beyond: a sample's pull then falls as 1 / KL.

    A hard clip would take all pull from whoever is far off, and a fresh student is far off everywhere in a pause.
    """
    if limit is None:
        return kl
    return torch.where(kl <= limit, kl, limit * (1 + (kl.clamp(min=limit) / limit).log()))


def floored(config: OutputConfig, floor: float | None) -> OutputDistribution:
    """The teacher's distribution with log scales of at least `floor`: 1 / scale is the slope of the divergence, and
    nothing is to be learnt below the noise of the recording. A categorical teacher has no scale.
    """
    if floor is None or config.kind is OutputKind.mulaw:
        return output_distribution(config)
    return output_distribution(replace(config, log_scale_floor=max(floor, config.log_scale_floor)))


def scale_regulariser(teacher: Gaussian, params: Tensor, log_scale: Tensor) -> Tensor:
    """(ln s_S - ln s_T)^2, (B, T): steadies the KL of narrow peaks (ClariNet, arXiv 1807.07281, section 3.3)."""
    return (log_scale - teacher.components(params)[1]) ** 2
