"""Networks small enough for float64 Jacobians, and signals for them."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from data.dataset import Batch
from data.mel import MelConfig, log_mel
from distill.fit import student_config
from distill.student import Student, StudentSize
from wavenet.conditioning import MARGIN
from wavenet.distributions import OutputConfig, OutputKind
from wavenet.model import WaveNet, WaveNetConfig
from wavenet.network import AutoregressiveNetwork, StackConfig

GAIN = 1.6


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def mel_config() -> MelConfig:
    return MelConfig(sample_rate=4000, n_fft=64, win_length=64, hop_length=16, n_mels=5, fmax=2000.0)


@pytest.fixture
def make_network() -> Callable[[], AutoregressiveNetwork]:
    """Two outputs a sample, float64, far enough from initialisation that they depend on everything before."""

    def make() -> AutoregressiveNetwork:
        network = AutoregressiveNetwork(StackConfig(4, 2, 3, 8, 16, 0), context=3, outputs=2, hop=4).double()
        torch.nn.init.normal_(network.last.weight, std=0.3)
        return network

    return make


@pytest.fixture
def make_teacher(mel_config: MelConfig) -> Callable[[OutputKind], WaveNet]:
    def make(kind: OutputKind) -> WaveNet:
        output = OutputConfig(kind=kind, mixtures=2, log_scale_floor=-7.0)
        stack = StackConfig(layers=3, cycle=3, kernel=3, residual=8, gate=16, skip=8)
        return WaveNet(WaveNetConfig(stack, 6, output, mel_config.n_mels, mel_config.hop_length))

    return make


@pytest.fixture
def make_student() -> Callable[..., Student]:
    """A student for a teacher; `lively` ones listen to the noise before, as trained ones do."""

    def make(teacher: WaveNet, initial_scale: float = 0.05, lively: bool = False) -> Student:
        size = StudentSize(flows=[3, 2], cycle=2, kernel=3, residual=8, gate=16)
        student = Student(student_config(size, teacher.config, initial_scale))
        if lively:
            for name, weight in student.named_parameters():
                if name.endswith("last.weight"):
                    torch.nn.init.normal_(weight, std=0.3)
        return student

    return make


@pytest.fixture
def batch(mel_config: MelConfig) -> Batch:
    """Two clips of a gliding vowel-like tone, half of each left context."""
    hop, frames, left_frames = mel_config.hop_length, 16, 8
    beyond = MARGIN * hop
    t = torch.arange((frames + left_frames) * hop + 2 * beyond) / mel_config.sample_rate
    wav = torch.stack([_tone(t, 150.0), _tone(t, 210.0)])
    mel = log_mel(wav / GAIN, mel_config)
    return Batch(wav[:, beyond:-beyond], mel, torch.zeros(2, dtype=torch.long), left_frames * hop, MARGIN)


def _tone(t: Tensor, pitch: float) -> Tensor:
    phase = 2 * math.pi * pitch * (t + 2 * t**2)
    return sum((torch.sin(k * phase) / k for k in range(1, 5)), 0.002 * torch.randn_like(t)) * 0.1
