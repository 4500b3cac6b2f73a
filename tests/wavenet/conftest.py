from collections.abc import Callable

import pytest
import torch

from wavenet.distributions import OutputConfig, OutputKind
from wavenet.model import WaveNet, WaveNetConfig
from wavenet.network import StackConfig

MakeWaveNet = Callable[..., WaveNet]


@pytest.fixture
def make_wavenet() -> MakeWaveNet:
    """Random teachers whose parameters depend visibly on everything that they read."""

    def make(
        kind: OutputKind = OutputKind.gaussian,
        stack: StackConfig | None = None,
        n_mels: int = 5,
        hop_length: int = 8,
        n_speakers: int = 0,
        dtype: torch.dtype = torch.float64,
        pitch: bool = False,
    ) -> WaveNet:
        torch.manual_seed(0)
        stack = stack or StackConfig(layers=3, cycle=3, kernel=3, residual=8, gate=12, skip=10)
        output = OutputConfig(kind=kind, mixtures=3)
        model = WaveNet(WaveNetConfig(stack, 6, output, n_mels, hop_length, n_speakers, pitch)).to(dtype)
        torch.nn.init.normal_(model.network.last.weight, std=0.1)  # a new network's is so small that nothing matters
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.data += 0.1 * torch.randn_like(parameter)  # biases start at 0, which would hide them
        return model

    return make


@pytest.fixture
def tiny() -> StackConfig:
    """The network of the preset of that name: 127 samples of reach."""
    return StackConfig(layers=6, cycle=6, kernel=3, residual=16, gate=32, skip=16)
