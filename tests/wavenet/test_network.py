import pytest
import torch
from torch.autograd.functional import jacobian

from wavenet.network import AutoregressiveNetwork, StackConfig


def dependence(network, length):
    """(T, T): how strongly out[t] depends on x[u], over a few signals, for a unit can be dead at one of them."""
    torch.manual_seed(1)
    x = torch.randn(4, length, dtype=torch.float64)
    slopes = jacobian(lambda x: network(x, None).sum(dim=(0, 2)), x)  # (T, B, T)
    return slopes.abs().sum(dim=1)


def network(kernel, layers, cycle, skip):
    torch.manual_seed(0)
    return AutoregressiveNetwork(StackConfig(layers, cycle, kernel, 8, 16, skip), 0, 2, hop=1).double()


@pytest.mark.parametrize("kernel", [2, 3])
@pytest.mark.parametrize(("layers", "cycle"), [(3, 3), (4, 2)])
@pytest.mark.parametrize("skip", [0, 8])
def test_every_output_depends_on_exactly_the_receptive_field_before_it(kernel, layers, cycle, skip):
    net = network(kernel, layers, cycle, skip)
    reach = StackConfig(layers, cycle, kernel).receptive_field
    T = 2 * reach
    depends = dependence(net, T) > 0
    t, u = torch.arange(T)[:, None], torch.arange(T)[None, :]
    assert torch.equal(depends, (u < t) & (u >= t - reach))


@pytest.mark.parametrize("skip", [0, 8])
@torch.no_grad()
def test_steps_are_the_whole_pass(skip):
    net = network(3, 4, 2, skip)
    x = torch.randn(3, 40, dtype=torch.float64)
    state = net.initial_state(batch=3)
    previous = torch.zeros(3, dtype=torch.float64)
    outputs = []
    for t in range(40):
        assert state.t == t
        outputs.append(net.step(previous, net.project(None), state))
        previous = x[:, t]
    torch.testing.assert_close(torch.stack(outputs, dim=1), net(x, None))


@pytest.mark.parametrize(
    ("setting", "value", "rule"),
    [
        ("layers", 0, "at least 1"),
        ("cycle", 0, "at least 1"),
        ("residual", 0, "at least 1"),
        ("gate", 1, "at least 2"),
        ("gate", 7, "even"),
        ("skip", -1, "at least 0"),
        ("kernel", 1, "2 or 3"),
        ("kernel", 4, "2 or 3"),
    ],
)
def test_an_impossible_stack_is_refused_by_name(setting, value, rule):
    with pytest.raises(ValueError, match=f"{setting} is {value}, .*{rule}"):
        StackConfig(**{setting: value})
