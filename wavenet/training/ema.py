"""The moving average of the weights: the average is what is validated, shipped and distilled."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class Ema:
    """average <- d average + (1 - d) weights, with d = min(decay, (1 + n) / (10 + n)) at the n-th update, n from 0.

    Without that warm-up a decay of 0.9999 leaves 82 % of the initial weights in the average after 2,000 steps.
    Whatever in the model's state is no parameter (buffers, counters) is copied as it is.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"the decay of the average is {decay}; it must be in [0, 1), 0.9999 for instance")
        self.decay = decay
        self.updates = 0
        self._model = model
        # Tied parameters are averaged under each of their names.
        self._averaged = [name for name, _ in model.named_parameters(remove_duplicate=False)]
        self._average = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the model's present weights into the average."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        weights = self._model.state_dict()
        torch._foreach_lerp_(
            [self._average[name] for name in self._averaged],
            [weights[name] for name in self._averaged],
            1.0 - decay,
        )
        for name in weights.keys() - set(self._averaged):
            self._average[name].copy_(weights[name])

    def weights(self) -> dict[str, Tensor]:
        """The averaged weights under the names of the model's state; not to be changed."""
        return dict(self._average)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model holds the averaged weights; afterwards its own ones again, bit for bit."""
        own = {name: tensor.clone() for name, tensor in self._model.state_dict().items()}
        try:
            self._copy(self._average)
            yield
        finally:
            self._copy(own)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "average": dict(self._average)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        for name, tensor in self._average.items():
            tensor.copy_(state["average"][name])

    @torch.no_grad()
    def _copy(self, source: dict[str, Tensor]) -> None:
        for name, tensor in self._model.state_dict().items():
            tensor.copy_(source[name])
