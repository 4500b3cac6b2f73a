"""A student with pitch speaks piece by piece: the phase goes on from one to the next."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from serve import Vocoder
from wavenet.kernels import use_backend

FRAMES = 200  # more samples than a piece holds, and more frames than are kept


@pytest.fixture(scope="module")
def checkpoint(make_toy_student: Callable[..., Path]) -> Path:
    return make_toy_student(pitch=True)


@pytest.mark.parametrize("carries", [True, False])
@pytest.mark.parametrize("width", [1, 7, FRAMES])
def test_chunks_of_a_mel_make_one_pass(
    checkpoint: Path, toy_utterance: Callable[..., NDArray[np.float32]], carries: bool, width: int
) -> None:
    vocoder, mel = Vocoder.from_pretrained(checkpoint, device="cpu"), toy_utterance(FRAMES)
    head, frames = vocoder._student.pitch, vocoder.frames(mel)[None]
    assert head is not None
    with torch.no_grad():
        head.last.bias[1] -= head(frames)[1].median()
    assert 0.4 < (head.f0(frames) > 0).double().mean() < 0.6  # a voice that comes and goes
    if carries:
        assert vocoder.streaming.packed is not None
    else:
        with use_backend("reference"):
            assert vocoder.streaming.packed is None
    pieces = list(vocoder.stream([mel[:, at : at + width] for at in range(0, FRAMES, width)], seed=3))
    assert len(pieces) > 1
    whole = vocoder(mel, seed=3)
    np.testing.assert_allclose(np.concatenate(pieces), whole, rtol=0, atol=1e-5 * np.abs(whole).max())
