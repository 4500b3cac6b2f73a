"""A model begins as one with fewer channels or without pitch, and computes what that one did.

After Net2Net (Chen et al. 2016, arXiv 1511.05641). There a new channel is the copy of an old one; here it is that of a
fresh model, and the channels from before do not read it yet, but learn to from the first step on.
"""

from itertools import accumulate

import torch
from torch import Tensor, nn

from wavenet.network import AutoregressiveNetwork


def widened(model: nn.Module, narrow: nn.Module) -> dict[str, Tensor]:
    """Weights for `model`, under which it computes what `narrow` does.

    Args:
        model: fresh. Its networks may have more channels (residual, gate, skip), and read an excitation that those of
            `narrow` do not. Modules that `narrow` lacks keep their weights.
        narrow: of the same layers otherwise, and with skip connections if and only if `model` has them.
    """
    fresh, weights = model.state_dict(), {**model.state_dict(), **narrow.state_dict()}
    for name, network in model.named_modules():
        if isinstance(network, AutoregressiveNetwork):
            before = narrow.get_submodule(name)
            assert isinstance(before, AutoregressiveNetwork)
            for layer in network.state_dict():
                old, now = _groups(layer, before), _groups(layer, network)
                rows, columns = (_positions(had, has) for had, has in zip(old, now, strict=True))
                key = f"{name}.{layer}"
                weights[key] = _within(fresh[key], weights[key], rows, columns)
    return weights


def _groups(name: str, network: AutoregressiveNetwork) -> tuple[list[int], list[int]]:
    """The channels that a weight writes and reads, as it concatenates them."""
    config, weight = network.config, network.get_parameter(name.rpartition(".")[0] + ".weight")
    halves, out = [config.gate // 2] * 2, [network.stack.out_channels]
    match name.split(".")[-2]:
        case "conv":
            return halves, [config.residual] * config.kernel
        case "condition":
            return halves, [weight.shape[1]]
        case "out":
            return [config.residual, config.skip], halves[:1]
        case "hidden":
            return out, out
        case "last":
            return [weight.shape[0]], out
        case _:  # the first: x, and the excitation
            return [config.residual], [weight.shape[1]]


def _positions(narrow: list[int], wide: list[int]) -> Tensor:
    """Where the channels of narrow groups stand among those of wide ones."""
    starts = accumulate(wide[:-1], initial=0)
    return torch.cat([start + torch.arange(size) for start, size in zip(starts, narrow, strict=True)])


def _within(fresh: Tensor, old: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """`fresh` with `old` in the given rows and columns, and zeros in those rows elsewhere."""
    wide = fresh.clone()
    if wide.dim() == 1:
        wide[rows] = old
    else:
        wide[rows] = 0
        wide[rows[:, None], columns] = old
    return wide
