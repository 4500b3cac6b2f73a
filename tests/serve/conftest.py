"""A vocoder that never learnt anything, and mels for it.

Quick runs try few examples of what hypothesis thinks of: HYPOTHESIS_PROFILE=thorough tries thousands.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from numpy.typing import NDArray

from data.mel import MelConfig, log_mel
from serve import Vocoder

EXAMPLES = {"quick": 25, "thorough": 3000}[os.environ.get("HYPOTHESIS_PROFILE", "quick")]
settings.register_profile("serve", max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))

Speech = Callable[..., NDArray[np.float32]]


@pytest.fixture(scope="session")
def toy_vocoder(toy_student: Path) -> Vocoder:
    return Vocoder.from_pretrained(toy_student, device="cpu")


@pytest.fixture(scope="session")
def toy_utterance(toy_mel: MelConfig, toy_speech: Speech) -> Callable[..., NDArray[np.float32]]:
    """The mel (M, L) of something said."""

    def utterance(frames: int, seed: int = 0) -> NDArray[np.float32]:
        wav = toy_speech(frames * toy_mel.hop_length / toy_mel.sample_rate, seed=seed)
        return log_mel(torch.from_numpy(wav), toy_mel).numpy()

    return utterance
