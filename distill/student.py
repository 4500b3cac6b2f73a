"""The student: noise and a mel become a waveform in one pass (Parallel WaveNet, arXiv 1711.10433, section 3)."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.cuda_graph import GraphCache
from distill.flows import FlowChain, InverseAutoregressiveFlow
from distill.stream import ChainStream, PackedChain, can_stream
from wavenet.checkpoint import Description
from wavenet.conditioning import Conditioner, check_condition
from wavenet.kernels.backend import Backend, forced_backend
from wavenet.kernels.native import bfloat16_wanted
from wavenet.network import AutoregressiveNetwork, StackConfig
from wavenet.noise import logistic_noise, normal_noise
from wavenet.pitch import CHANNELS, Excitation, PitchHead, check_pitch, excite
from wavenet.pretrained import load_model
from wavenet.sampling.inputs import batch_size, check_length, check_shapes

CHUNK = 2**14  # samples of one step of a stream: what is done once a step weighs little


class Base(StrEnum):
    """The distribution of the noise, hence of every sample given the noise before it."""

    logistic = "logistic"
    normal = "normal"

    def as_logistic(self, scale: float) -> float:
        """The scale at which the noise has the standard deviation of a logistic distribution of this scale."""
        return scale if self is Base.logistic else scale * math.pi / math.sqrt(3)

    def noise(self, seed: int, start: int, length: int) -> Tensor:
        """The noise of samples `start .. start + length` of utterance `seed`: (length,), float64, on the CPU."""
        draw = logistic_noise if self is Base.logistic else normal_noise
        return draw(seed, start, length)[:, 0]

    def draw(self, like: Tensor) -> Tensor:
        """Fresh noise of the shape, device and dtype of `like`, from torch's generator."""
        if self is Base.normal:
            return torch.randn_like(like)
        return torch.logit(torch.rand_like(like), eps=torch.finfo(like.dtype).eps / 2)

    def log_density(self, z: Tensor) -> Tensor:
        """(...) -> (...), nats."""
        if self is Base.normal:
            return -0.5 * z**2 - 0.5 * math.log(2 * math.pi)
        return F.logsigmoid(z) + F.logsigmoid(-z)


@dataclass
class StudentSize:
    """How large a student is: what a preset fixes. The rest of `StudentConfig` follows the teacher.

    Args:
        flows: layers of every flow, from the noise to the waveform.
        cycle: layers after which the dilation starts again at 1.
        kernel: taps of a convolution.
        residual: channels between layers.
        gate: channels before the gate, both halves together.
    """

    flows: list[int] = field(default_factory=lambda: [10, 10, 10, 10])
    cycle: int = 10
    kernel: int = 3
    residual: int = 64
    gate: int = 128

    def __post_init__(self) -> None:
        if not self.flows:
            raise ValueError("flows is empty, but a student needs at least one flow: give layers per flow, as [10, 10]")
        self.stacks()

    @property
    def receptive_field(self) -> int:
        """Samples of noise before t that x[t] depends on: the flows' reaches add."""
        return sum(stack.receptive_field for stack in self.stacks())

    def stacks(self) -> list[StackConfig]:
        """The network of every flow, without skip connections (Parallel WaveNet, section 3)."""
        sizes = {"cycle": self.cycle, "kernel": self.kernel, "residual": self.residual, "gate": self.gate, "skip": 0}
        return [StackConfig(layers=layers, **sizes) for layers in self.flows]


@dataclass
class StudentConfig(StudentSize):
    """A student.

    Args:
        context: channels of the condition.
        base: distribution of the noise: logistic, or normal for a Gaussian teacher.
        initial_scale: scale of the waveform's distribution before training; the corpus' own is a good one.
        n_mels: bands of the mel; 0 for none.
        hop_length: samples per mel frame.
        n_speakers: 0 for a model without speaker embedding.
        pitch: whether the input layer of every flow reads the running phase of F0 (`wavenet.pitch`).
    """

    context: int = 128
    base: Base = Base.logistic
    initial_scale: float = 0.05
    n_mels: int = 80
    hop_length: int = 256
    n_speakers: int = 0
    pitch: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.base = Base(self.base)
        if not 0 < self.initial_scale < math.inf:
            raise ValueError(f"initial_scale is {self.initial_scale}, but must be positive and finite, as 0.05")
        for name, least in (("context", 1), ("n_mels", 0), ("hop_length", 1), ("n_speakers", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least {least}")
        check_pitch(self.pitch, self.n_mels)


@dataclass
class StudentSample:
    """x = z * exp(log_scale) + loc, where loc and log_scale at t come from z[<t]."""

    x: Tensor  # (B, T)
    loc: Tensor  # (B, T)
    log_scale: Tensor  # (B, T)


class Student(nn.Module):
    """Inverse autoregressive flows under one condition that all of them share.

    The head that hears the pitch is its teacher's, and learns nothing more.
    """

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.config = config
        self.conditioner = Conditioner(config.n_mels, config.n_speakers, config.context)
        context = config.context if config.n_mels or config.n_speakers else 0
        self.pitch = PitchHead(config.n_mels).requires_grad_(False) if config.pitch else None
        networks = [
            AutoregressiveNetwork(stack, context, 2, config.hop_length, CHANNELS if config.pitch else 0)
            for stack in config.stacks()
        ]
        flow_scale = config.initial_scale ** (1 / len(networks))  # the scales of the flows multiply
        self.chain = FlowChain(
            [
                InverseAutoregressiveFlow(network, reads=flow_scale**i, speaks=flow_scale ** (i + 1))
                for i, network in enumerate(networks)
            ]
        )
        self._graphs = GraphCache()
        with torch.no_grad():
            for network in networks:
                network.last.bias[1] = flow_scale + math.log(-math.expm1(-flow_scale))  # inverse of softplus

    @property
    def receptive_field(self) -> int:
        """Samples of noise before t that x[t] depends on, through all flows."""
        return self.config.receptive_field

    def forward(
        self,
        z: Tensor,
        mel: Tensor | None = None,
        speaker: Tensor | None = None,
        margin: int = 0,
        keep: int | None = None,
        excitation: Tensor | None = None,
    ) -> StudentSample:
        """One pass.

        Args:
            z: (B, T), noise of the base distribution.
            mel: (B, M, L) with (L - 2 margin) hop = T.
            speaker: (B,), indices.
            margin: mel frames on each side beyond the waveform. With `conditioning.MARGIN` of them a crop's condition
                equals that of the whole clip, but the phase of its pitch begins anew.
            keep: how many samples at the end are wanted, all if None; others are computed as far as these need them.
            excitation: (B, T, 3), if the flows read one; by default that of the pitch which is heard in the mel.
        """
        cond = self._condition(z, mel, speaker, margin)
        if excitation is None:
            excitation = self.excite(mel, margin=margin)
        return StudentSample(*self.chain(z, cond, margin * self.config.hop_length, keep, excitation))

    def excite(
        self, mel: Tensor | None, f0: Tensor | None = None, margin: int = 0, recording: Tensor | None = None
    ) -> Tensor | None:
        """The flows' excitation (B, T, 3), or None for a student without pitch; see `wavenet.pitch.excite`."""
        return excite(self.pitch, mel, f0, self.config.hop_length, margin, recording)

    def noise(self, seed: int, start: int, length: int) -> Tensor:
        """The noise of samples `start .. start + length`: a pure function of (seed, sample); (length,), float64."""
        return self.config.base.noise(seed, start, length)

    @torch.no_grad()
    def generate(
        self,
        mel: Tensor | None,
        speaker: Tensor | None = None,
        seed: int = 0,
        temperature: float = 1.0,
        noise: Tensor | None = None,
        block: int = 2**18,
    ) -> Tensor:
        """Speech: (B, M, L) -> x (B, L hop), at the network's level, neither clipped nor rounded.

        Args:
            seed: utterance b takes the noise of seed + b.
            temperature: factor on the noise.
            noise: (B, T), instead of the seed's; needed where there is no mel to say how long the waveform is.
            block: samples computed at once where the compiled kernels are not used; every block then begins a receptive
                field early, on noise that is the same in any division.

        On a CPU the compiled kernels carry the layers' states from tile to tile instead; on a GPU a block is one replay
        of a CUDA graph (`distill.cuda_graph`). In all cases the memory does not grow with the length.

        Raises:
            ValueError: a negative or non-finite temperature; neither a mel nor noise; lengths or batch sizes that
                differ; no frame; a wrong shape; an unknown speaker.
        """
        if not 0 <= temperature < math.inf:
            raise ValueError(f"temperature is {temperature}, but must be finite and not negative: 1 is the model's own")
        weight, hop = next(self.parameters()), self.config.hop_length
        B, T = self._size(mel, speaker, noise)

        def draw(row: int, start: int, stop: int) -> Tensor:
            z = self.noise(seed + row, start, stop - start) if noise is None else noise[row, start:stop]
            return (temperature * z).to(weight)

        x = torch.empty(B, T, dtype=weight.dtype, device=weight.device)
        if can_stream(self.chain.sequence, weight) and forced_backend() is not Backend.reference:
            self._stream(draw, mel, speaker, x)
            return x

        def draw_all(start: int, stop: int) -> Tensor:
            return torch.stack([draw(row, start, stop) for row in range(B)])

        reach, excited = self.receptive_field, self._excitation(mel)
        if weight.is_cuda and forced_backend() is not Backend.reference:
            self._graphs.generate(
                self.chain, draw_all, partial(self.conditioner.window, mel, speaker), x, hop, reach, block, excited
            )
            return x
        cond = self.conditioner(mel, speaker)  # (B, L, context)
        for start in range(0, T, block):
            begin, stop = max(0, start - reach), min(T, start + block)
            z, excitation = draw_all(begin, stop), None if excited is None else excited(begin, stop)
            x[:, start:stop] = self.chain(z, cond, begin, stop - start, excitation)[0]
        return x

    def _size(self, mel: Tensor | None, speaker: Tensor | None, noise: Tensor | None) -> tuple[int, int]:
        """B and T of what is to be said."""
        check_shapes(self.config.n_mels, mel, speaker)
        if noise is not None and noise.dim() != 2:
            raise ValueError(f"noise has the shape {tuple(noise.shape)}, but must be (B, T): take it from `noise`")
        batch = batch_size(mel=mel, speaker=speaker, noise=noise)
        if mel is not None:
            length = mel.shape[2] * self.config.hop_length
        elif noise is not None:
            length = noise.shape[1]
        else:
            raise ValueError("without a mel the length of the waveform is unknown: pass noise of that length")
        check_length(length)
        if noise is not None:
            check_condition(mel, noise.shape[1], self.config.hop_length, 0)
        return batch, length

    def _stream(
        self, draw: Callable[[int, int, int], Tensor], mel: Tensor | None, speaker: Tensor | None, x: Tensor
    ) -> None:
        """Every row of x (B, T), a chunk at a time."""
        packed = PackedChain(self.chain.sequence, bfloat16_wanted(x))
        for row in range(len(x)):
            stream = ChainStream(packed)
            said, sayer = (None if given is None else given[row : row + 1] for given in (mel, speaker))
            excited = self._excitation(said)
            for start in range(0, x.shape[1], CHUNK):
                stop = min(x.shape[1], start + CHUNK)
                z, excitation = draw(row, start, stop), None if excited is None else excited(start, stop)[0]
                with torch.autocast("cpu", enabled=False):
                    cond = self.conditioner.window(said, sayer, *stream.window(len(z)))
                x[row, start:stop] = stream.advance(z, None if cond is None else cond[0], excitation)

    def _excitation(self, mel: Tensor | None) -> Excitation | None:
        """Of whole utterances, as their mels tell it."""
        return None if self.pitch is None or mel is None else Excitation(self.pitch.f0(mel), self.config.hop_length)

    def inverse(self, x: Tensor, mel: Tensor | None = None, speaker: Tensor | None = None, margin: int = 0) -> Tensor:
        """The noise of a waveform: x (B, T) -> z (B, T), sequentially, flow by flow from the last; no gradient."""
        return self._inverse(x, mel, speaker, margin)[0]

    def log_prob(self, x: Tensor, mel: Tensor | None = None, speaker: Tensor | None = None, margin: int = 0) -> Tensor:
        """Log density of every sample of any waveform given those before: x (B, T) -> (B, T), nats.

        Change of variables: ln p(x) = sum_t ln p_base(z[t]) + ln dz[t]/dx[t]. Sequential, as `inverse`; no gradient.
        """
        z, log_det = self._inverse(x, mel, speaker, margin)
        return self.config.base.log_density(z) + log_det

    def _inverse(self, x: Tensor, mel: Tensor | None, speaker: Tensor | None, margin: int) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            cond = self._condition(x, mel, speaker, margin)
            excitation = self.excite(mel, margin=margin)
            return self.chain.inverse_and_log_det(x, cond, margin * self.config.hop_length, excitation)

    def _condition(self, wav: Tensor, mel: Tensor | None, speaker: Tensor | None, margin: int) -> Tensor | None:
        check_condition(mel, wav.shape[1], self.config.hop_length, margin)
        return self.conditioner(mel, speaker)


def load_student(directory: Path | str) -> tuple[Student, Description]:
    """A student's checkpoint as a model in eval mode on the CPU.

    Raises:
        CheckpointError: missing, damaged, of another kind or format, or inconsistent.
    """
    return load_model(directory, "student", StudentConfig, Student)
