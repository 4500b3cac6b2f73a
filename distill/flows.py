"""Inverse autoregressive flows (Kingma et al. 2016, arXiv 1606.04934) and their chain (Parallel WaveNet, section 3).

One flow is x[t] = s[t] z[t] + m[t], where m[t] and s[t] come from z[<t]: known noise becomes a waveform in one pass.
The way back needs z[<t] for z[t], so it is sequential. The shift by one is the network's (`wavenet.network`).
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavenet.network import AutoregressiveNetwork


def log_softplus(raw: Tensor) -> Tensor:
    """ln ln(1 + e^raw), also where e^raw underflows: there it is raw itself, to 5e-14."""
    return torch.where(raw < -30, raw, F.softplus(raw.clamp(min=-30)).log())


def softplus_affine(raw: Tensor) -> tuple[Tensor, Tensor]:
    """A network's two outputs (..., 2) -> loc, log_scale (...), scale = softplus(raw).

    An exponential instead lets the scales of a fresh chain multiply to hundreds, and the waveform explode.
    """
    return raw[..., 0], log_softplus(raw[..., 1])


class InverseAutoregressiveFlow(nn.Module):
    """x = z * exp(log_scale) + loc with (loc, log_scale)[t] = affine(network(z[<t], condition)).

    The condition is `cond` and, if the network reads one, an excitation (B, T, E).

    Args:
        network: two outputs a sample.
        reads: the amplitude of z that the network calls 1.
        speaks: the amplitude of loc that the network calls 1.
        affine: turns its outputs (..., 2) into loc and log_scale (...). With loc = -mu / s and log_scale = -ln s the
            network of a Gaussian teacher becomes the flow from its waveform to its noise.
    """

    def __init__(
        self,
        network: AutoregressiveNetwork,
        reads: float = 1.0,
        speaks: float = 1.0,
        affine: Callable[[Tensor], tuple[Tensor, Tensor]] = softplus_affine,
    ) -> None:
        super().__init__()
        self.network = network
        self.reads = reads
        self.speaks = speaks
        self._affine = affine

    def affine(
        self, z: Tensor, cond: Tensor | None, offset: int = 0, excitation: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """z (B, T), cond (B, L, context), offset of z[0] in the condition, in samples -> loc, log_scale (B, T)."""
        return self._scaled(self.network(z / self.reads, cond, offset, excitation))

    def forward_and_log_det(
        self, z: Tensor, cond: Tensor | None, offset: int = 0, excitation: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """z (B, T) -> x (B, T) in one pass, and ln dx[t]/dz[t] (B, T), whose sum over t is ln |det dx/dz|."""
        loc, log_scale = self.affine(z, cond, offset, excitation)
        return z * torch.exp(log_scale) + loc, log_scale

    @torch.no_grad()
    def inverse_and_log_det(
        self, x: Tensor, cond: Tensor | None, offset: int = 0, excitation: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """x (B, T) -> z (B, T) one sample after the other, and ln dz[t]/dx[t] (B, T). Takes no gradient."""
        frames = self.network.project(cond)
        state = self.network.initial_state(x.shape[0])
        state.t = offset
        past, log_scales = [torch.zeros_like(x[:, 0])], []
        for t, now in enumerate(x.unbind(dim=1)):
            excited = None if excitation is None else excitation[:, t]
            loc, log_scale = self._scaled(self.network.step(past[-1] / self.reads, frames, state, excited))  # (B,)
            past.append((now - loc) * torch.exp(-log_scale))
            log_scales.append(log_scale)
        return torch.stack(past[1:], dim=1), -torch.stack(log_scales, dim=1)

    def _scaled(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        loc, log_scale = self._affine(raw)
        return self.speaks * loc, log_scale


class FlowChain(nn.Module):
    """Flows one after the other, without shared weights; each reads the output of the one before.

    Given z[<t], every flow is affine in z[t], and so is the chain (Parallel WaveNet, arXiv 1711.10433, section 3):
        loc <- loc * s_f + m_f,   log_scale <- log_scale + ln s_f,   x = z * exp(log_scale) + loc.
    """

    def __init__(self, flows: Sequence[InverseAutoregressiveFlow]) -> None:
        super().__init__()
        assert flows
        self.flows = nn.ModuleList(flows)

    @property
    def sequence(self) -> list[InverseAutoregressiveFlow]:
        """The flows, from the noise to the waveform."""
        return [flow for flow in self.flows if isinstance(flow, InverseAutoregressiveFlow)]

    def forward(
        self,
        z: Tensor,
        cond: Tensor | None,
        offset: int = 0,
        keep: int | None = None,
        excitation: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """z (B, T) -> x, loc, log_scale of the whole chain; the sum of log_scale over t is ln |det dx/dz|.

        Args:
            keep: how many samples at the end are wanted, all T if None: every flow then computes, before them, only
                what those after it read.
            excitation: (B, T, E), read by every flow.

        Returns:
            (B, keep) each
        """
        keep = z.shape[1] if keep is None else keep
        x, loc, log_scale = z, torch.zeros_like(z), torch.zeros_like(z)
        reach = sum(flow.network.receptive_field for flow in self.sequence)  # of the flows to come
        for flow in self.sequence:
            unread = max(0, x.shape[1] - keep - reach)
            x, loc, log_scale, offset = x[:, unread:], loc[:, unread:], log_scale[:, unread:], offset + unread
            excitation = None if excitation is None else excitation[:, unread:]
            flow_loc, flow_log_scale = flow.affine(x, cond, offset, excitation)
            scale = torch.exp(flow_log_scale)
            x = x * scale + flow_loc
            loc = loc * scale + flow_loc
            log_scale = log_scale + flow_log_scale
            reach -= flow.network.receptive_field
        return x[:, -keep:], loc[:, -keep:], log_scale[:, -keep:]

    def inverse_and_log_det(
        self, x: Tensor, cond: Tensor | None, offset: int = 0, excitation: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """x (B, T) -> z (B, T), flow by flow from the last, and ln dz[t]/dx[t] (B, T). Takes no gradient."""
        log_det = torch.zeros_like(x)
        for flow in reversed(self.sequence):
            x, flow_log_det = flow.inverse_and_log_det(x, cond, offset, excitation)
            log_det = log_det + flow_log_det
        return x, log_det
