"""The bands of a corpus: pooled moments, and a divergence that tells speech from what is none."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from data.bands import Bands, measure_bands

Mel = npt.NDArray[np.float32]


def mels(count: int, seed: int = 0) -> list[Mel]:
    """Of several lengths; every band has a mean and a spread of its own."""
    rng = np.random.default_rng(seed)
    mean, spread = np.linspace(-4, -8, 20)[:, None], np.linspace(0.5, 2, 20)[:, None]
    return [(mean + spread * rng.standard_normal((20, 100 + 30 * n))).astype(np.float32) for n in range(count)]


def test_the_bands_of_a_corpus_are_the_moments_of_all_its_frames() -> None:
    pooled = np.concatenate(mels(5), axis=1, dtype=np.float64)
    bands = measure_bands(mels(5))
    np.testing.assert_allclose(bands.mean, pooled.mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(bands.spread, pooled.std(axis=1), rtol=1e-6)


def test_the_divergence_is_that_of_two_normal_distributions() -> None:
    """Kullback-Leibler, in closed form: ln(s2/s1) + (s1^2 + (m1 - m2)^2) / (2 s2^2) - 1/2."""
    bands = Bands([-5.0, -3.0], [1.0, 2.0])
    mel = np.array([[-6.0, -8.0], [-2.0, -2.5]])  # means -7, -2.25; deviations 1, 0.25
    first = math.log(1 / 1) + (1 + 4) / 2 - 0.5
    second = math.log(2 / 0.25) + (0.0625 + 0.5625) / 8 - 0.5
    assert bands.divergence(mel) == pytest.approx((first + second) / 2)


def test_a_corpus_is_not_far_from_itself_and_every_change_is() -> None:
    corpus = mels(5)
    bands = measure_bands(corpus)
    assert bands.divergence(np.concatenate(corpus, axis=1)) == pytest.approx(0, abs=1e-6)
    (heard,) = mels(1, seed=1)
    own = bands.divergence(heard)
    assert 0 < own < 0.02
    centre = heard.mean(axis=1, keepdims=True)
    for changed in (heard + 1, heard[::-1], centre + 0.3 * (heard - centre), np.full_like(heard, -11.5)):
        assert bands.divergence(changed) > 0.2
    assert math.isfinite(bands.divergence(np.full((20, 1), -11.5)))


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        (([], []), "0 bands"),
        (([0.0], [1.0, 1.0]), "mean has 1 bands and spread 2"),
        (([math.nan], [1.0]), "finite"),
        (([0.0], [0.0]), "positive"),
        (([0.0], [math.inf]), "positive and finite"),
    ],
)
def test_bands_that_are_none_are_refused(values: Any, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        Bands(*values)


def test_digital_silence_has_bands_too() -> None:
    assert min(measure_bands([np.full((3, 4), -11.5, np.float32)]).spread) > 0
