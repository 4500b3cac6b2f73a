"""Mu-law: inverse functions, and bins that partition [-1, 1]."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.mulaw import CLASSES, MU, bin_edges, compress, decode, encode, expand

amplitudes = st.floats(-1, 1, allow_nan=False)


def double(x: float) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64)


@given(amplitudes)
def test_expand_inverts_compress(x: float) -> None:
    assert float(expand(compress(double(x)))) == pytest.approx(x, abs=1e-13)


@given(amplitudes)
def test_compress_inverts_expand(y: float) -> None:
    assert float(compress(expand(double(y)))) == pytest.approx(y, abs=1e-12)


@given(st.floats(-2, 2), st.floats(-2, 2))
def test_compress_is_monotone_and_odd(a: float, b: float) -> None:
    assert (compress(double(a)) <= compress(double(b))) == (a <= b) or compress(double(a)) == compress(double(b))
    assert compress(double(-a)) == -compress(double(a))


def test_the_ends_and_the_centre_stay_in_place() -> None:
    assert compress(torch.tensor([-1.0, 0.0, 1.0])).tolist() == [-1.0, 0.0, 1.0]


def test_the_slope_at_zero_is_that_of_the_formula() -> None:
    x = torch.tensor([-1e-12, -0.0, 0.0, 1e-12], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(compress(x).sum(), x)
    assert torch.allclose(gradient, torch.full_like(gradient, MU / math.log(1 + MU)))


@pytest.mark.parametrize("function", [compress, expand])
def test_gradients_are_those_of_finite_differences(function) -> None:
    x = torch.tensor([-0.9, -0.3, -0.01, 0.02, 0.5, 1.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, x, eps=1e-7)


def test_the_bins_partition_the_interval() -> None:
    edges = bin_edges()
    assert edges.shape == (CLASSES + 1,)
    assert (edges[0], edges[CLASSES // 2], edges[-1]) == (-1, 0, 1)
    assert (edges.diff() > 0).all()
    assert torch.equal(edges, -edges.flip(0))


def test_the_widths_differ_245_fold() -> None:
    widths = bin_edges().diff()
    assert float(widths.max() / widths.min()) == pytest.approx(245, abs=0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_code_survives_the_round_trip(dtype: torch.dtype) -> None:
    codes = torch.arange(CLASSES)
    x = decode(codes, dtype)
    edges = bin_edges(dtype)
    assert x.dtype == dtype
    assert torch.equal(encode(x), codes)
    assert ((edges[:-1] < x) & (x < edges[1:])).all()


@given(st.floats(-1, 1, exclude_max=True))
def test_a_code_names_the_bin_that_holds_the_amplitude(x: float) -> None:
    edges = bin_edges()
    code = int(encode(double(x)))
    assert edges[code] - 1e-12 <= x <= edges[code + 1] + 1e-12


def test_amplitudes_beyond_full_scale_get_the_edge_codes() -> None:
    assert encode(torch.tensor([-7.0, -1.0, 1.0, 7.0])).tolist() == [0, 0, 255, 255]
