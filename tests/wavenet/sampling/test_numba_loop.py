"""The pieces of the compiled loop against their definitions."""

import numpy as np
import pytest
import torch

from wavenet.kernels.reference import gated_activation
from wavenet.sampling import numba_pieces, vectors
from wavenet.sampling.packing import Weights, _matrix


def test_the_rational_tanh_is_right_to_a_few_units_in_the_last_place():
    x = np.linspace(-20, 20, 40_001, dtype=np.float32)
    y = np.array([numba_pieces.tanh32(value) for value in x])
    assert np.abs(y - np.tanh(x.astype(np.float64))).max() < 3e-7
    assert np.abs(y).max() <= 1


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-6), (np.float64, 1e-15)])
def test_the_compiled_gate_is_the_gate_up_to_saturation(dtype, tolerance):
    pre = np.random.default_rng(0).normal(scale=30, size=(3, 2000)).astype(dtype)
    gated = np.empty((3, 1000), dtype)
    numba_pieces.gate(pre, gated)
    expected = gated_activation(torch.from_numpy(pre)[:, None], None, None, 1)[:, 0].numpy()
    assert np.abs(gated - expected).max() < tolerance


@pytest.mark.parametrize("columns", [32, 64, 96, 128, 160])
@pytest.mark.parametrize("rows", [1, 3, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_products_are_added_whatever_the_batch_bit_for_bit_as_alone(rows, columns, dtype):
    rng = np.random.default_rng(0)
    sums = np.float64 if dtype is torch.float64 else np.float32
    weight = torch.from_numpy(rng.normal(size=(3, rows, columns)).astype(sums))
    matrix = _matrix(weight, Weights.bfloat16 if dtype is torch.bfloat16 else Weights.exact)
    for count in (1, 2, 3, 4, 5, 8, 9):
        x, start = (rng.normal(size=(count, width)).astype(sums) for width in (rows, columns))
        y, alone = np.stack([start, start]), start.copy()
        vectors.add_products(x, matrix, 2, y, start.size, count)
        assert np.array_equal(y[0], start)
        expected = start + x @ weight[2].to(dtype).to(weight.dtype).numpy()
        np.testing.assert_allclose(y[1], expected, rtol=0, atol=1e-12 if sums is np.float64 else 2e-5)
        for u in range(count):
            vectors.add_products(x[u : u + 1], matrix, 2, alone[u : u + 1], 0, 1)
        assert np.array_equal(alone, y[1])


@pytest.mark.parametrize(("uniform", "chosen"), [(1e-16, 1), (0.2499, 1), (0.2501, 2), (0.7501, 4), (1 - 2.0**-53, 4)])
def test_the_choice_is_the_first_class_whose_cumulative_probability_exceeds_the_uniform(uniform, chosen):
    logits = np.log([1e-300, 0.25, 0.5, 1e-300, 0.25]) + 700  # large logits must not overflow
    assert numba_pieces.choose(logits, uniform) == chosen
