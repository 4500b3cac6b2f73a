"""A phone classifier, the ear of the perceptual loss (Parallel WaveNet, arXiv 1711.10433, section 4).

Dilated gated stacks, with mean pooling in between down to the frame rate of the mel, after WaveNet's recogniser (arXiv
1609.03499, section 3.4). They hear the waveform through a learnt bank of filters, which begins as one of Gabor's on the
mel scale (Zeghidour et al. 2018, arXiv 1711.01161): filters that begin at random take a corpus many times as large.
Everything is causal; what a frame's label needs of the future comes from reading the output `lookahead` frames later.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.mel import MelConfig
from wavenet.checkpoint import CheckpointError, Description
from wavenet.layers import DilatedStack
from wavenet.pretrained import load_model, mel_config

KERNEL = 3
KIND = "classifier"
LOWEST, HIGHEST = 60.0, 0.48  # of the filters' first centres: Hz, and a share of the sampling rate
FLOOR = 1e-5  # power in a band, relative to that of the unit level, that is as good as none


@dataclass
class ClassifierSize:
    """A classifier's network.

    Args:
        bands: filters.
        window: samples that a filter spans.
        channels: of every stage's stack.
        layers: of every stage's stack, with dilations 1, 2, 4, ...
        pools: by how much every stage is slower than what it hears, the first than the waveform; their product is the
            hop.
        lookahead: frames after its own that a frame's label may depend on.
        unit: waveform level that the network sees as 1.
    """

    bands: int = 64
    window: int = 512
    channels: list[int] = field(default_factory=lambda: [64, 64])
    layers: list[int] = field(default_factory=lambda: [4, 4])
    pools: list[int] = field(default_factory=lambda: [64, 4])
    lookahead: int = 6
    unit: float = 0.05

    def __post_init__(self) -> None:
        if not len(self.channels) == len(self.layers) == len(self.pools) > 0:
            raise ValueError(
                f"channels {self.channels}, layers {self.layers} and pools {self.pools} do not fit: every stage has "
                "one of each"
            )
        if min([self.bands, *self.channels, *self.layers, *self.pools]) < 1:
            raise ValueError(
                f"bands {self.bands}, channels {self.channels}, layers {self.layers} and pools {self.pools} must be at "
                "least 1"
            )
        if self.window < self.pools[0]:
            raise ValueError(
                f"window is {self.window}, but filters {self.pools[0]} samples apart (pools) must meet: lengthen it"
            )
        if self.lookahead < 0:
            raise ValueError(f"lookahead is {self.lookahead} frames; it must be 0 or more")
        if not 0 < self.unit < math.inf:
            raise ValueError(f"unit is {self.unit}; it must be positive and finite, 0.05 for instance")


@dataclass
class ClassifierConfig(ClassifierSize):
    """A classifier for one mel and one inventory.

    Args:
        sample_rate: Hz.
        hop_length: samples per frame.
        phones: names of its classes.
    """

    sample_rate: int = 22050
    hop_length: int = 256
    phones: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        if math.prod(self.pools) != self.hop_length:
            raise ValueError(
                f"pools {self.pools} make frames of {math.prod(self.pools)} samples, but the mel's hop is "
                f"{self.hop_length}; set classifier.pools to factors of {self.hop_length}"
            )
        if len(self.phones) < 2:
            raise ValueError(f"{len(self.phones)} phones cannot be told apart; a classifier needs two or more")


class Filterbank(nn.Module):
    """ln(1 + power / FLOOR) in every band, every `stride` samples; the newest sample that counts is the stride's last.

    Args:
        bands: N.
        window: samples of a filter.
    """

    def __init__(self, bands: int, window: int, stride: int, sample_rate: int) -> None:
        super().__init__()
        self.stride = stride
        self.filters = nn.Parameter(gabor_filters(bands, window, sample_rate))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T) -> (B, T / stride, N), none negative; T a multiple of the stride."""
        window = self.filters.shape[1]
        with torch.autocast(x.device.type, enabled=False):  # what is 60 dB below counts, and bfloat16 has 8 bits
            frames = F.pad(x, (window - self.stride, 0)).unfold(1, window, self.stride)  # (B, T / stride, window)
            real, imaginary = (frames @ self.filters.T).chunk(2, dim=2)  # (B, T / stride, N) each
            return torch.log1p((real.square() + imaginary.square()) / FLOOR)


def gabor_filters(bands: int, window: int, sample_rate: int) -> Tensor:
    """Real parts, then imaginary parts of Gabor filters: (2 bands, window).

    Their centres are equally spaced in mel = 1127 ln(1 + f / 700); the standard deviation of each in frequency is the
    distance to its neighbour. A sine of amplitude 1 at a centre has the power 1.
    """
    low, high = (1127 * math.log1p(hertz / 700) for hertz in (LOWEST, HIGHEST * sample_rate))
    centres = 700 * torch.expm1(torch.linspace(low, high, bands, dtype=torch.float64) / 1127)  # (N,) Hz
    spacing = (centres + 700) * math.expm1((high - low) / max(1, bands - 1) / 1127)
    t = (torch.arange(window, dtype=torch.float64) - (window - 1) / 2) / sample_rate  # (window,) s
    envelope = torch.exp(-0.5 * (2 * math.pi * spacing[:, None] * t).square())  # (N, window)
    envelope = 2 * envelope / envelope.sum(dim=1, keepdim=True)
    phase = 2 * math.pi * centres[:, None] * t
    return torch.cat([envelope * phase.cos(), envelope * phase.sin()]).float()


class PhoneClassifier(nn.Module):
    """p(phone of a frame | waveform)."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.filterbank = Filterbank(config.bands, config.window, config.pools[0], config.sample_rate)
        heard = [config.bands, *config.channels]
        self.enter = nn.ModuleList(
            nn.Linear(before, after) for before, after in zip(heard, config.channels, strict=False)
        )
        self.stacks = nn.ModuleList(
            DilatedStack(layers, layers, KERNEL, channels, 2 * channels, skip=0, context=0)
            for layers, channels in zip(config.layers, config.channels, strict=True)
        )
        self.last = nn.Linear(config.channels[-1], len(config.phones))

    def activations(self, wav: Tensor) -> list[Tensor]:
        """Outputs of the filters and of every stage: (B, T) -> (B, T / rate, C), rate pools[0] twice, ..., the hop.

        Raises:
            ValueError: T is not a whole number of frames, or is 0.
        """
        T, hop = wav.shape[1], self.config.hop_length
        if T == 0 or T % hop:
            raise ValueError(f"the waveform has {T} samples, but the classifier reads whole frames of {hop}")
        outputs: list[Tensor] = [self.filterbank(wav / self.config.unit)]
        for enter, stack, pool in zip(self.enter, self.stacks, [1, *self.config.pools[1:]], strict=True):
            assert isinstance(stack, DilatedStack)
            hidden = outputs[-1]
            hidden = hidden.view(len(hidden), -1, pool, hidden.shape[2]).mean(dim=2)  # (B, T / rate, C)
            outputs.append(torch.relu(stack(enter(_normalise(hidden)), [None] * len(stack.layers), hop=1)))
        return outputs

    def forward(self, wav: Tensor) -> Tensor:
        """Logits of all frames but the last `lookahead`: (B, T) -> (B, L - lookahead, phones)."""
        return self.last(_normalise(self.activations(wav)[-1][:, self.config.lookahead :]))


def _normalise(hidden: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the channels, at every moment: loud and quiet speech look alike."""
    return F.layer_norm(hidden, hidden.shape[-1:])


def load_classifier(directory: Path | str) -> tuple[PhoneClassifier, Description]:
    """A classifier's checkpoint as a model in eval mode on the CPU.

    Raises:
        CheckpointError: missing, damaged, of another kind or format, or inconsistent.
    """
    return load_model(directory, KIND, ClassifierConfig, PhoneClassifier)


def load_classifier_for(directory: Path | str, mel: MelConfig) -> tuple[PhoneClassifier, float]:
    """A classifier that hears speech of this mel's rate and hop, and the gain that it was trained at.

    Raises:
        CheckpointError: as `load_classifier`, or it was trained on another mel.
    """
    classifier, description = load_classifier(directory)
    own = mel_config(description, directory)
    if own != mel:
        raise CheckpointError(
            f"{directory}: the classifier was trained with {own}, but the speech is of {mel}; "
            "train one on this corpus with `wavenet train-classifier`"
        )
    return classifier, description.gain
