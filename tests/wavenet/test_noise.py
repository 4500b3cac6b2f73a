from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wavenet.noise import BLOCK, logistic_noise, normal_noise, uniform_noise

DRAWS = [uniform_noise, normal_noise, logistic_noise]
EDGES = st.sampled_from([0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK - 1, 2 * BLOCK, 3 * BLOCK])


@pytest.mark.parametrize("draw", DRAWS)
@given(seed=st.integers(0, 2**64 - 1), cuts=st.lists(st.one_of(EDGES, st.integers(0, 3 * BLOCK)), max_size=4))
@settings(deadline=None, max_examples=30)
def test_noise_drawn_in_any_chunks_is_the_noise_drawn_at_once(draw, seed, cuts):
    bounds = [0, *sorted(cuts), 3 * BLOCK]
    chunks = [draw(seed, a, b - a, 2) for a, b in pairwise(bounds)]
    assert torch.equal(torch.cat(chunks), draw(seed, 0, 3 * BLOCK, 2))


@pytest.mark.parametrize("draw", DRAWS)
def test_noise_ignores_the_state_of_every_generator(draw):
    torch.manual_seed(1)
    first = draw(7, 100, 50)
    torch.manual_seed(2)
    torch.randn(3)
    assert torch.equal(first, draw(7, 100, 50))


@pytest.mark.parametrize("draw", DRAWS)
def test_noise_differs_between_seeds_and_between_blocks(draw):
    here = draw(1, 0, BLOCK)
    assert (here != draw(2, 0, BLOCK)).all()
    assert (here != draw(1, BLOCK, BLOCK)).all()


@pytest.mark.parametrize(
    ("draw", "mean", "variance"),
    [(uniform_noise, 0.5, 1 / 12), (normal_noise, 0, 1), (logistic_noise, 0, torch.pi**2 / 3)],
)
def test_noise_has_the_moments_of_its_law(draw, mean, variance):
    noise = draw(3, 0, 100_000)
    assert noise.dtype == torch.float64 and noise.shape == (100_000, 1)
    assert noise.mean().item() == pytest.approx(mean, abs=5 * (variance / 100_000) ** 0.5)
    assert noise.var().item() == pytest.approx(variance, rel=0.03)


def test_uniform_noise_lies_in_the_open_interval():
    noise = uniform_noise(5, 0, 200_000)
    assert noise.min() > 0 and noise.max() < 1


def test_no_samples_are_an_empty_tensor():
    assert uniform_noise(0, 10, 0, 3).shape == (0, 3)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(ValueError, match=r"seed is .* choose a non-negative seed"):
        uniform_noise(seed, 0, 1)
