"""KL(p_S || p_T) of the student to the teacher, sample by sample (Parallel WaveNet, arXiv 1711.10433, section 4).

KL = H(p_S, p_T) - H(p_S). One z gives one x, and one pass of the teacher its parameters at every t; both terms are then
sums over t of one-dimensional integrals over x_t alone, given that past. Where the integral has a closed form it is
taken, else x_t is drawn again, many times, from p_S(x_t | z_<t).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from distill.student import Base
from wavenet.distributions import Gaussian, MixtureOfLogistics, OutputDistribution


@dataclass
class KLConfig:
    """The Kullback-Leibler divergence in the loss.

    Args:
        weight: of the divergence in nats a sample; 0 leaves the teacher out.
        draws: N, draws of every x_t under a mixture teacher; few of them let the student collapse to a hum.
        regulariser: factor of (ln s_S - ln s_T)^2 beside the closed form of a Gaussian teacher.
    """

    weight: float = 1.0
    draws: int = 100
    regulariser: float = 4.0

    def __post_init__(self) -> None:
        for name in ("weight", "regulariser"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"kl.{name} is {getattr(self, name)}, but must be finite and not negative")
        if self.draws < 1:
            raise ValueError(f"kl.draws is {self.draws}, but must be at least 1; 100 is usual")


@dataclass
class Divergence:
    """KL = cross-entropy - entropy, in nats a sample."""

    cross_entropy: Tensor  # (B, T)
    entropy: Tensor  # (B, T)

    @property
    def kl(self) -> Tensor:
        return self.cross_entropy - self.entropy


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


def kl_divergence(
    teacher: OutputDistribution,
    params: Tensor,
    loc: Tensor,
    log_scale: Tensor,
    base: Base,
    draws: int,
    generator: torch.Generator | None = None,
) -> Divergence:
    """KL of the student's p_S(x_t | z_<t) to the teacher's p_T(x_t | x_<t), for every t.

    Mixture of logistics: Monte Carlo over `draws` stratified x_t. Mu-law: closed form over the bins and their widths.
    Gaussian: closed form.

    Args:
        params: (B, T, P), the teacher's, from one pass over the student's x.
        loc, log_scale: (B, T), the student's.
        generator: of the draws; torch's own by default.
    """
    uniforms = stratified(loc, draws, generator) if isinstance(teacher, MixtureOfLogistics) else None
    return Divergence(teacher.cross_entropy(params, loc, log_scale, uniforms), entropy(log_scale, base))


def scale_regulariser(teacher: Gaussian, params: Tensor, log_scale: Tensor) -> Tensor:
    """(ln s_S - ln s_T)^2, (B, T): steadies the KL of narrow peaks (ClariNet, arXiv 1807.07281, section 3.3)."""
    return (log_scale - teacher.components(params)[1]) ** 2
