"""What a student cannot speak from is refused alike by every way of computing it."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from distill.student import Student, StudentConfig
from wavenet.kernels import use_backend

HOP = 8


@pytest.fixture(params=["reference", "best"])
def way(request: pytest.FixtureRequest) -> Iterator[None]:
    with use_backend("reference") if request.param == "reference" else nullcontext():
        yield


@pytest.fixture
def make() -> Callable[[int], Student]:
    def make(n_mels: int) -> Student:
        return Student(StudentConfig([2, 2], 2, 3, 4, 8, context=4, n_mels=n_mels, hop_length=HOP, n_speakers=2)).eval()

    return make


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"mel": torch.zeros(5, 4)}, r"mel has the shape \(5, 4\), but this model reads \(B, 5, L\): give such a mel"),
        ({"mel": torch.zeros(1, 4, 5)}, r"mel has the shape \(1, 4, 5\), but this model reads \(B, 5, L\)"),
        ({"mel": torch.zeros(1, 5, 0)}, "length is 0, but must be at least 1 sample"),
        ({"mel": torch.zeros(2, 5, 4)}, "batch sizes differ: {'mel': 2, 'speaker': 1}; give as many of each"),
        (
            {"mel": torch.zeros(0, 5, 4), "speaker": torch.zeros(0, dtype=torch.int64)},
            "mel and speaker have a batch of 0",
        ),
        ({"mel": torch.zeros(1, 5, 4), "noise": torch.zeros(3, 32)}, "batch sizes differ: .*'noise': 3"),
        (
            {"mel": torch.zeros(2, 5, 4), "speaker": torch.tensor([0, 1]), "noise": torch.zeros(1, 32)},
            "batch sizes differ: .*'noise': 1",
        ),
        ({"mel": torch.zeros(1, 5, 4), "noise": torch.zeros(1, 31)}, "span 32 samples .* but the waveform has 31"),
        ({"mel": torch.zeros(1, 5, 4), "noise": torch.zeros(1, 32, 1)}, r"noise has the shape .*must be \(B, T\)"),
        ({"mel": torch.zeros(1, 5, 4), "speaker": torch.tensor(0)}, r"speaker has the shape \(\), but must be \(B,\)"),
        ({"mel": torch.zeros(1, 5, 4), "speaker": torch.tensor([2])}, "speaker .* is unknown"),
        ({"mel": torch.zeros(1, 5, 4), "speaker": None}, "none was chosen: pass speaker"),
        ({"mel": None, "noise": torch.zeros(1, 32)}, "none was given: pass mel"),
    ],
)
def test_what_does_not_fit_is_refused(make: Callable[[int], Student], inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(5).generate(**{"speaker": torch.tensor([0]), **inputs})


@pytest.mark.usefixtures("way")
def test_without_a_mel_noise_and_speakers_are_as_many(make: Callable[[int], Student]) -> None:
    student = make(0)
    assert student.generate(None, torch.tensor([0, 1]), noise=torch.zeros(2, 10)).shape == (2, 10)
    with pytest.raises(ValueError, match=r"batch sizes differ: {'speaker': 2, 'noise': 3}"):
        student.generate(None, torch.tensor([0, 1]), noise=torch.zeros(3, 10))
    with pytest.raises(ValueError, match="length is 0"):
        student.generate(None, torch.tensor([0]), noise=torch.zeros(1, 0))
