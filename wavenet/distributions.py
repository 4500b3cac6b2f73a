"""What the teacher says about the next sample: mu-law categorical, mixture of logistics or Gaussian.

Three views of one prediction:
  log_prob      of the value that the model emits: a class, a 16-bit level, or (Gaussian) a real number
  log_density   of any real x, inside or beyond [-1, 1]: what likelihoods are reported in
  cross_entropy of a one-dimensional student distribution, for distillation (Parallel WaveNet, section 4): the mean of
                -log_density, but for mu-law classes beyond [-1, 1], where it extends p_T by an unnormalised tail
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum

import torch
import torch.nn.functional as F
from torch import Tensor

from data import mulaw
from wavenet.kernels.ops import logistic_mixture_cross_entropy, logistic_mixture_log_density
from wavenet.noise import normal_noise, uniform_noise

HALF_BIN = 2.0**-16  # half the distance of two 16-bit levels k / 32768
_NARROWEST = -30.0  # log scale in a student's tails: squares of smaller scales leave float32, and its slopes are NaN


class OutputKind(StrEnum):
    mulaw = "mulaw"
    mol = "mol"
    gaussian = "gaussian"


@dataclass
class OutputConfig:
    """Which distribution the network parameterises.

    Args:
        kind: mulaw (8 bits, 256 classes), mol (mixture of logistics on 16 bits) or gaussian.
        mixtures: K, for mol.
        log_scale_floor: smallest log scale of mol and gaussian; below the silence of the corpus.
        log_scale_init: where log scales begin.
        unit: the amplitude that the network of mol and gaussian calls 1, in what it reads and in the means that it
            gives: speech lies some twenty times below 1, where steps of the optimiser are far too coarse.
    """

    kind: OutputKind = OutputKind.mol
    mixtures: int = 10
    log_scale_floor: float = -9.0
    log_scale_init: float = -3.0
    unit: float = 0.05

    def __post_init__(self) -> None:
        self.kind = OutputKind(self.kind)
        if self.mixtures < 1:
            raise ValueError(f"output.mixtures is {self.mixtures}, but a mixture needs at least 1 component")
        if not self.log_scale_floor < self.log_scale_init:
            raise ValueError(
                f"output.log_scale_floor is {self.log_scale_floor}, not below output.log_scale_init "
                f"{self.log_scale_init}: lower the floor"
            )
        if not 0 < self.unit < math.inf:
            raise ValueError(f"output.unit is {self.unit}, but an amplitude must be positive and finite, as 0.05")


class OutputDistribution(ABC):
    """params (..., P) describe the distribution of one sample each."""

    n_params: int
    n_noise: int  # columns of noise that one sample takes
    limit: float = math.inf  # of |x|: beyond it the density is zero, and in `cross_entropy` a tail

    @abstractmethod
    def embed(self, x: Tensor) -> Tensor:
        """What the network reads of a waveform (...)."""

    def quantise(self, x: Tensor) -> Tensor:
        """The nearest value that the model can emit."""
        return x

    def noise(self, seed: int, start: int, length: int) -> Tensor:
        """The noise of samples `start .. start + length`: (length, n_noise), float64."""
        return uniform_noise(seed, start, length, self.n_noise)

    def bits(self, params: Tensor, x: Tensor, gain: float = 1.0) -> Tensor:
        """Bits per 16-bit sample of the sound file: -log2 of the density times the bin's width 2^-15.

        Args:
            gain: the waveform x is the file's times this constant, so its bins are `gain` times wider.
        """
        return 15 - math.log2(gain) - self.log_density(params, x) / math.log(2)

    @abstractmethod
    def initial_bias(self) -> Tensor:
        """Bias (P,) of the network's last layer before training."""

    @abstractmethod
    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """params (..., P), x (...) -> (...), nats: of the emitted value nearest to x."""

    @abstractmethod
    def log_density(self, params: Tensor, x: Tensor) -> Tensor:
        """params (..., P), x (...) -> (...), nats: of any real x, per unit of amplitude."""

    @abstractmethod
    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        """params (..., P), noise (..., n_noise), best in float64 -> x (...), in the dtype of params"""

    @abstractmethod
    def cross_entropy(self, params: Tensor, loc: Tensor, log_scale: Tensor, draws: Tensor | None) -> Tensor:
        """H(p_S, p_T) for every sample, in nats.

        Args:
            params: (B, T, P) of the teacher.
            loc, log_scale: (B, T) of the student's distribution: logistic, or normal for a Gaussian teacher.
            draws: (B, T, N) uniforms in (0, 1) where the integral is a Monte Carlo sum, else None.

        Returns:
            (B, T)
        """


def _logistic_cdf(edges: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
    return torch.sigmoid((edges - loc[..., None]) * torch.exp(-log_scale)[..., None])


class MuLawCategorical(OutputDistribution):
    """256 classes of mu-law companded amplitude (WaveNet, section 2.2).

    The network reads the companded scalar, not a one-hot code, so that a gradient reaches x in distillation. The
    density is piecewise constant: the probability of a bin over the width of that bin in amplitude. Beyond [-1, 1] it
    is zero, and a student's KL would be infinite: distillation extends it there by an unnormalised exponential tail.
    """

    n_params = 256
    n_noise = 1
    limit = 1.0

    def embed(self, x: Tensor) -> Tensor:
        return mulaw.compress(x)

    def quantise(self, x: Tensor) -> Tensor:
        return mulaw.decode(mulaw.encode(x), x.dtype)

    def initial_bias(self) -> Tensor:
        return torch.zeros(self.n_params)

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        codes = mulaw.encode(x)
        return torch.log_softmax(params, dim=-1).gather(-1, codes[..., None])[..., 0]

    def log_density(self, params: Tensor, x: Tensor) -> Tensor:
        log_widths = self._edges(params).diff().log()
        inside = self.log_prob(params, x) - log_widths[mulaw.encode(x)]
        return torch.where(x.abs() <= self.limit, inside, -torch.inf)

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        """The first class whose cumulative probability exceeds the noise."""
        cumulative = torch.softmax(params, dim=-1).cumsum(dim=-1)
        codes = (cumulative <= noise).sum(dim=-1).clamp(max=self.n_params - 1)
        return mulaw.decode(codes, params.dtype)

    def cross_entropy(self, params: Tensor, loc: Tensor, log_scale: Tensor, draws: Tensor | None) -> Tensor:
        """Closed form: -sum_b P_S(b) [ln P_T(b) - ln width_b]; the edge bins take the student's tails.

        Beyond the range p_T is extended, unnormalised: it falls off by e every width of an edge bin, as at an even
        density the KL would fall without end as a student widens, for its entropy grows. So the KL stays above -ln 2,
        and what stays in the range pays nothing. For a logistic student E[max(0, x - 1)] = s softplus((loc - 1) / s).
        """
        edges, scale = self._edges(loc), log_scale.clamp(min=_NARROWEST).exp()
        cdf = _logistic_cdf(edges[1:-1], loc, log_scale)  # (B, T, 255)
        masses = F.pad(cdf, (0, 1), value=1.0) - F.pad(cdf, (1, 0), value=0.0)  # (B, T, 256)
        within = -(masses * (torch.log_softmax(params, dim=-1) - edges.diff().log())).sum(dim=-1)
        beyond = scale * (F.softplus((loc - self.limit) / scale) + F.softplus((-self.limit - loc) / scale))  # (B, T)
        return within + beyond / (edges[-1] - edges[-2])

    @staticmethod
    def _edges(like: Tensor) -> Tensor:
        return mulaw.bin_edges(torch.float64).to(like)  # (257,)


class MixtureOfLogistics(OutputDistribution):
    """K logistics on 16-bit audio (PixelCNN++, arXiv 1701.05517, eq. 2; Parallel WaveNet, section 2)."""

    n_noise = 2

    def __init__(self, mixtures: int, log_scale_floor: float, log_scale_init: float, unit: float = 1.0) -> None:
        self.mixtures = mixtures
        self.n_params = 3 * mixtures
        self.log_scale_floor = log_scale_floor
        self.log_scale_init = log_scale_init
        self.unit = unit

    def embed(self, x: Tensor) -> Tensor:
        return x / self.unit

    def components(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """params (..., 3K) -> logits, means, log_scales (floored), each (..., K)."""
        logits, means, log_scales = params.chunk(3, dim=-1)
        return logits, self.unit * means, log_scales.clamp(min=self.log_scale_floor)

    def quantise(self, x: Tensor) -> Tensor:
        return (x * 32768).round().clamp(-32768, 32767) / 32768

    def initial_bias(self) -> Tensor:
        K = self.mixtures
        log_scales = self.log_scale_init + (torch.linspace(-1, 1, K) if K > 1 else torch.zeros(K))
        return torch.cat([torch.zeros(2 * K), log_scales.clamp(min=self.log_scale_floor)])

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """The mass of the 16-bit level k / 32768 nearest to x; the two edge levels take the tails."""
        logits, means, log_scales = self.components(params)
        x = self.quantise(x)
        inner = self.log_density(params, x) + math.log(2 * HALF_BIN)
        log_weights = torch.log_softmax(logits, dim=-1)
        scaled = (x[..., None] - means) * torch.exp(-log_scales)
        step = HALF_BIN * torch.exp(-log_scales)
        lower_tail = torch.logsumexp(log_weights + F.logsigmoid(scaled + step), dim=-1)
        upper_tail = torch.logsumexp(log_weights + F.logsigmoid(step - scaled), dim=-1)
        edged = torch.where(x <= -1, lower_tail, inner)
        return torch.where(x >= 1 - 2 * HALF_BIN, upper_tail, edged)

    def log_density(self, params: Tensor, x: Tensor) -> Tensor:
        x, _ = torch.broadcast_tensors(x, params[..., 0])  # type: ignore[no-untyped-call]
        params = params.expand(*x.shape, self.n_params)
        return logistic_mixture_log_density(*self.components(params), x[..., None], HALF_BIN)[..., 0]

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        """Noise column 0 picks the component, column 1 is the logistic's quantile; rounded to 16 bits."""
        logits, means, log_scales = self.components(params)
        cumulative = torch.softmax(logits, dim=-1).cumsum(dim=-1)
        chosen = (cumulative <= noise[..., :1]).sum(dim=-1, keepdim=True).clamp(max=self.mixtures - 1)
        mean = means.gather(-1, chosen)[..., 0]
        log_scale = log_scales.gather(-1, chosen)[..., 0]
        quantile = torch.logit(noise[..., 1]).to(mean)  # in the noise's dtype: a float32 u may be 1
        return self.quantise(mean + torch.exp(log_scale) * quantile)

    def cross_entropy(self, params: Tensor, loc: Tensor, log_scale: Tensor, draws: Tensor | None) -> Tensor:
        """Monte Carlo over x_t ~ p_S(x_t | z_<t), reparameterised, so that loc and scale get their gradients."""
        assert draws is not None, "a mixture teacher is scored on draws"
        return logistic_mixture_cross_entropy(*self.components(params), loc, log_scale, draws, HALF_BIN)


class Gaussian(OutputDistribution):
    """One normal distribution, mean and log standard deviation (ClariNet, arXiv 1807.07281, section 3)."""

    n_params = 2
    n_noise = 1

    def __init__(self, log_scale_floor: float, log_scale_init: float, unit: float = 1.0) -> None:
        self.log_scale_floor = log_scale_floor
        self.log_scale_init = log_scale_init
        self.unit = unit

    def embed(self, x: Tensor) -> Tensor:
        return x / self.unit

    def components(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """params (..., 2) -> mean, log_scale (floored), each (...)."""
        return self.unit * params[..., 0], params[..., 1].clamp(min=self.log_scale_floor)

    def noise(self, seed: int, start: int, length: int) -> Tensor:
        return normal_noise(seed, start, length, self.n_noise)

    def initial_bias(self) -> Tensor:
        return torch.tensor([0.0, self.log_scale_init])

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        return self.log_density(params, x)

    def log_density(self, params: Tensor, x: Tensor) -> Tensor:
        mean, log_scale = self.components(params)
        return -0.5 * math.log(2 * math.pi) - log_scale - 0.5 * ((x - mean) * torch.exp(-log_scale)) ** 2

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        mean, log_scale = self.components(params)
        return mean + torch.exp(log_scale) * noise[..., 0].to(mean)

    def cross_entropy(self, params: Tensor, loc: Tensor, log_scale: Tensor, draws: Tensor | None) -> Tensor:
        """Closed form between two normals: E[(x - mu_T)^2] = (mu_S - mu_T)^2 + s_S^2."""
        mean, teacher_log_scale = self.components(params)
        square = (loc - mean) ** 2 + torch.exp(2 * log_scale)
        return 0.5 * math.log(2 * math.pi) + teacher_log_scale + 0.5 * square * torch.exp(-2 * teacher_log_scale)


def output_distribution(config: OutputConfig) -> OutputDistribution:
    if config.kind is OutputKind.mulaw:
        return MuLawCategorical()
    if config.kind is OutputKind.mol:
        return MixtureOfLogistics(config.mixtures, config.log_scale_floor, config.log_scale_init, config.unit)
    return Gaussian(config.log_scale_floor, config.log_scale_init, config.unit)
