"""Training that begins with the weights of a checkpoint."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import nn

from wavenet.checkpoint import CheckpointError, load_description, load_into, load_weights
from wavenet.pitch import CHANNELS
from wavenet.pretrained import config_from
from wavenet.training.state import flatten


def begin_from(model: nn.Module, config: Any, directory: Path | str, kind: str) -> None:
    """Copies the weights of the `kind` in `directory` into a model of the same config.

    A model with pitch may begin from one without: the columns of its input layers that read the excitation are zero
    then, so that it computes what the other did, and its head stays as it is.

    Args:
        config: the model's dataclass.

    Raises:
        CheckpointError: no such checkpoint, or one of another config.
    """
    model_before = config_from(type(config), load_description(directory, kind).model, directory)
    before, now = flatten(asdict(model_before)), flatten(asdict(config))
    gains_pitch = now["pitch"] and not before["pitch"]
    changed = [
        f"{name} is {before.get(name)!r} there and {now.get(name)!r} here"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) and not (name == "pitch" and gains_pitch)
    ]
    if changed:
        raise CheckpointError(
            f"training cannot begin from the {kind} in {directory}: {'; '.join(changed)}; "
            f"give the settings that it was made with, or leave out init_from"
        )
    weights = load_weights(directory)
    if gains_pitch:
        for name, own in model.state_dict().items():
            if name.startswith("pitch."):
                weights[name] = own
            elif name.endswith("network.first.weight"):
                weights[name] = F.pad(weights[name], (0, CHANNELS))
    load_into(model, weights)
