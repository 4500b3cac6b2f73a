"""The teacher: a WaveNet (arXiv 1609.03499) with the outputs of Parallel WaveNet (arXiv 1711.10433)."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavenet.conditioning import Conditioner, check_condition
from wavenet.distributions import OutputConfig, output_distribution
from wavenet.network import AutoregressiveNetwork, NetworkState, StackConfig
from wavenet.pitch import CHANNELS, PitchHead, check_pitch, excite


@dataclass
class WaveNetConfig:
    """A teacher.

    Args:
        stack: the network's size.
        context: channels of the condition.
        output: the distribution of a sample.
        n_mels: bands of the mel that it is conditioned on; 0 for none.
        hop_length: samples per mel frame.
        n_speakers: 0 for a model without speaker embedding.
        pitch: whether the input layer reads the running phase of F0 (`wavenet.pitch`).
    """

    stack: StackConfig = field(default_factory=StackConfig)
    context: int = 128
    output: OutputConfig = field(default_factory=OutputConfig)
    n_mels: int = 80
    hop_length: int = 256
    n_speakers: int = 0
    pitch: bool = False

    def __post_init__(self) -> None:
        for name, least in (("context", 1), ("n_mels", 0), ("hop_length", 1), ("n_speakers", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least {least}")
        check_pitch(self.pitch, self.n_mels)


class WaveNet(nn.Module):
    """p(x_t | x_<t, mel, speaker) for every t in one pass over a known waveform, or one sample at a time.

    The head that hears the pitch learns by itself, before the rest (`wavenet.pitch_objective`).
    """

    def __init__(self, config: WaveNetConfig) -> None:
        super().__init__()
        self.config = config
        self.distribution = output_distribution(config.output)
        self.conditioner = Conditioner(config.n_mels, config.n_speakers, config.context)
        context = config.context if config.n_mels or config.n_speakers else 0
        self.pitch = PitchHead(config.n_mels).requires_grad_(False) if config.pitch else None
        self.network = AutoregressiveNetwork(
            config.stack, context, self.distribution.n_params, config.hop_length, CHANNELS if config.pitch else 0
        )
        with torch.no_grad():
            self.network.last.bias.copy_(self.distribution.initial_bias())

    @property
    def receptive_field(self) -> int:
        """Samples before t that the parameters at t depend on."""
        return self.config.stack.receptive_field

    def forward(
        self,
        x: Tensor,
        mel: Tensor | None = None,
        speaker: Tensor | None = None,
        margin: int = 0,
        excitation: Tensor | None = None,
        dropout: float = 0.0,
    ) -> Tensor:
        """Parameters of every sample given those before it.

        Args:
            x: (B, T), the waveform at the network's level; any real numbers.
            mel: (B, M, L) with (L - 2 margin) hop = T.
            speaker: (B,), indices.
            margin: mel frames on each side beyond the waveform. With `conditioning.MARGIN` of them a crop's parameters
                equal those of the whole clip, but with pitch: the phase of a crop begins anew.
            excitation: (B, T, 3), if the model reads one; by default that of the pitch which it hears in the mel.
            dropout: share of the samples that the network does not get to read in training; the others are read so much
                louder that the sum over them keeps its mean.

        Returns:
            (B, T, P), float32 or wider
        """
        hop = self.config.hop_length
        check_condition(mel, x.shape[1], hop, margin)
        cond = self.conditioner(mel, speaker)
        if excitation is None:
            excitation = self.excite(mel, margin=margin)
        heard = F.dropout(self.distribution.embed(x), dropout, self.training)
        params = self.network(heard, cond, margin * hop, excitation)
        return params if params.dtype == torch.float64 else params.float()

    def excite(
        self, mel: Tensor | None, f0: Tensor | None = None, margin: int = 0, recording: Tensor | None = None
    ) -> Tensor | None:
        """The input layer's excitation (B, T, 3), or None for a model without pitch; see `wavenet.pitch.excite`."""
        return excite(self.pitch, mel, f0, self.config.hop_length, margin, recording)

    def step(
        self,
        previous: Tensor,
        frames: list[Tensor | None],
        state: NetworkState,
        excitation: Tensor | None = None,
    ) -> Tensor:
        """x[t - 1] (B,), excitation[t] (B, 3) -> parameters of x[t] (B, P); frames from
        `network.project(conditioner(...))`."""
        return self.network.step(self.distribution.embed(previous), frames, state, excitation)
