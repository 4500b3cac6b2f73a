"""average <- d average + (1 - d) weights, with a d that warms up."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from wavenet.training.ema import Ema


def scalar_model() -> nn.Linear:
    model = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        model.weight.zero_()
    return model


@given(decay=st.floats(0.0, 0.9999), weights=st.lists(st.floats(-10.0, 10.0), min_size=1, max_size=30))
def test_the_average_is_the_recursion_with_warm_up(decay: float, weights: list[float]) -> None:
    model = scalar_model()
    ema = Ema(model, decay)
    expected = 0.0
    for n, weight in enumerate(weights):
        with torch.no_grad():
            model.weight.fill_(weight)
        ema.update()
        d = min(decay, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * weight
    assert ema.weights()["weight"].item() == pytest.approx(expected, abs=1e-12)


def test_a_high_decay_keeps_the_past_and_a_low_one_follows_the_present() -> None:
    averages = []
    for decay in (0.99, 0.1):
        model = scalar_model()
        ema = Ema(model, decay)
        for _ in range(1000):  # long after the warm-up
            ema.update()
        with torch.no_grad():
            model.weight.fill_(1.0)
        ema.update()
        averages.append(ema.weights()["weight"].item())
    assert averages == pytest.approx([0.01, 0.9])


def test_after_2000_steps_the_initial_weights_are_forgotten() -> None:
    model = scalar_model()
    ema = Ema(model, 0.9999)
    with torch.no_grad():
        model.weight.fill_(1.0)
    for _ in range(2000):
        ema.update()
    assert ema.weights()["weight"].item() == pytest.approx(1.0, abs=1e-6)


def test_buffers_and_counters_are_copied() -> None:
    model = nn.BatchNorm1d(3)
    ema = Ema(model, 0.9999)
    model(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))
    ema.update()
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(ema.weights()[name], model.state_dict()[name])


def test_tied_weights_stay_tied() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    ema = Ema(model, 0.5)
    with torch.no_grad():
        model[0].weight.add_(1.0)
    ema.update()
    assert torch.equal(ema.weights()["0.weight"], ema.weights()["1.weight"])
    assert not torch.equal(ema.weights()["0.weight"], model[0].weight)


def test_the_model_holds_the_average_inside_the_context_and_its_own_weights_after_it() -> None:
    model = nn.Linear(4, 4)
    ema = Ema(model, 0.9)
    with torch.no_grad():
        model.weight.mul_(3.0)
    ema.update()
    own = model.weight.clone()
    with pytest.raises(KeyError), ema.applied():  # also when something goes wrong inside
        assert torch.equal(model.weight, ema.weights()["weight"])
        assert not torch.equal(model.weight, own)
        raise KeyError
    assert torch.equal(model.weight, own)


def test_a_restored_average_goes_on_as_the_old_one() -> None:
    model = nn.Linear(4, 4)
    old, new = Ema(model, 0.9), Ema(nn.Linear(4, 4), 0.9)
    new._model = model
    old.update()
    new.load_state_dict(old.state_dict())
    with torch.no_grad():
        model.weight.add_(1.0)
    old.update()
    new.update()
    assert torch.equal(old.weights()["weight"], new.weights()["weight"])


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_outside_0_to_1_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="decay"):
        Ema(nn.Linear(1, 1), decay)
