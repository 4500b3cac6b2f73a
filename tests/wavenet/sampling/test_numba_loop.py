"""The pieces of the compiled loop against their definitions."""

import numpy as np
import pytest
import torch

from wavenet.kernels.reference import gated_activation
from wavenet.sampling import numba_loop


def test_the_rational_tanh_is_right_to_a_few_units_in_the_last_place():
    x = np.linspace(-20, 20, 40_001, dtype=np.float32)
    y = np.array([numba_loop._tanh32(value) for value in x])
    assert np.abs(y - np.tanh(x.astype(np.float64))).max() < 3e-7
    assert np.abs(y).max() <= 1


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-6), (np.float64, 1e-15)])
def test_the_compiled_gate_is_the_gate_up_to_saturation(dtype, tolerance):
    pre = np.random.default_rng(0).normal(scale=30, size=2000).astype(dtype)
    gated = np.empty(1000, dtype)
    numba_loop._gate(pre, gated)
    expected = gated_activation(torch.from_numpy(pre)[None, None], None, 1)[0, 0].numpy()
    assert np.abs(gated - expected).max() < tolerance


@pytest.mark.parametrize("rows", [1, 3, 4, 5, 64])
@pytest.mark.parametrize("columns", [1, 7, 16])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_product_is_added(rows, columns, dtype):
    rng = np.random.default_rng(0)
    x, weight, y = (rng.normal(size=size).astype(dtype) for size in (rows, (rows, columns), columns))
    expected = y + x @ weight
    numba_loop._add_product(x, weight, y)
    np.testing.assert_allclose(y, expected, rtol=1e-4 if dtype is np.float32 else 1e-12, atol=1e-5)


@pytest.mark.parametrize(("uniform", "chosen"), [(1e-16, 1), (0.2499, 1), (0.2501, 2), (0.7501, 4), (1 - 2.0**-53, 4)])
def test_the_choice_is_the_first_class_whose_cumulative_probability_exceeds_the_uniform(uniform, chosen):
    logits = np.log([1e-300, 0.25, 0.5, 1e-300, 0.25]) + 700  # large logits must not overflow
    assert numba_loop._choose(logits, uniform) == chosen
