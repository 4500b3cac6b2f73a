"""A phone classifier whose activations are the ear of the perceptual loss (Parallel WaveNet, arXiv 1711.10433, 4.2).

Dilated gated stacks on the raw waveform, with mean pooling in between down to the frame rate of the mel, after
WaveNet's recogniser (arXiv 1609.03499, section 3.4). The stacks are causal; what a frame's label needs of the future
comes from reading the output `lookahead` frames later.
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


@dataclass
class ClassifierSize:
    """A classifier's network.

    Args:
        channels: of every stage; the last one runs at frame rate.
        pools: samples that are averaged between two stages; their product is the hop.
        layers: of every stage, with dilations 1, 2, 4, ...; those of the second hear pitch and formants
        lookahead: frames after its own that a frame's label may depend on.
        unit: waveform level that the network sees as 1.
    """

    channels: list[int] = field(default_factory=lambda: [32, 48, 64, 64, 64])
    pools: list[int] = field(default_factory=lambda: [4, 4, 4, 4])
    layers: list[int] = field(default_factory=lambda: [3, 5, 3, 3, 3])
    lookahead: int = 6
    unit: float = 0.05

    def __post_init__(self) -> None:
        if not len(self.channels) == len(self.layers) == len(self.pools) + 1:
            raise ValueError(
                f"channels {self.channels}, layers {self.layers} and pools {self.pools} do not fit: every stage has "
                "channels and layers, and there is a pool between two stages"
            )
        if min([*self.channels, *self.layers, *self.pools]) < 1:
            raise ValueError(
                f"channels {self.channels}, layers {self.layers} and pools {self.pools} must be at least 1"
            )
        if self.lookahead < 0:
            raise ValueError(f"lookahead is {self.lookahead} frames; it must be 0 or more")
        if not 0 < self.unit < math.inf:
            raise ValueError(f"unit is {self.unit}; it must be positive and finite, 0.05 for instance")


@dataclass
class ClassifierConfig(ClassifierSize):
    """A classifier for one mel and one inventory.

    Args:
        hop_length: samples per frame.
        phones: names of its classes.
    """

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


class PhoneClassifier(nn.Module):
    """p(phone of a frame | waveform)."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.enter = nn.ModuleList(
            nn.Linear(before, after) for before, after in zip([1, *config.channels], config.channels, strict=False)
        )
        self.stacks = nn.ModuleList(
            DilatedStack(layers, layers, KERNEL, channels, 2 * channels, skip=0, context=0)
            for layers, channels in zip(config.layers, config.channels, strict=True)
        )
        self.last = nn.Linear(config.channels[-1], len(config.phones))

    def activations(self, wav: Tensor) -> list[Tensor]:
        """Every stage's output: (B, T) -> (B, T / rate, C), rate 1, pools[0], pools[0] pools[1], ..., hop.

        Raises:
            ValueError: T is not a whole number of frames, or is 0.
        """
        T, hop = wav.shape[1], self.config.hop_length
        if T == 0 or T % hop:
            raise ValueError(f"the waveform has {T} samples, but the classifier reads whole frames of {hop}")
        hidden = (wav / self.config.unit)[..., None]  # (B, T, 1)
        outputs: list[Tensor] = []
        for enter, stack, pool in zip(self.enter, self.stacks, [*self.config.pools, 1], strict=True):
            assert isinstance(stack, DilatedStack)
            hidden = torch.relu(stack(enter(hidden), [None] * len(stack.layers), hop=1))  # (B, T / rate, C)
            outputs.append(hidden)
            hidden = _normalise(hidden.view(len(hidden), -1, pool, hidden.shape[2]).mean(dim=2))  # / pool
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
