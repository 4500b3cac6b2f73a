"""Training that begins with the weights of a checkpoint."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from wavenet.checkpoint import CheckpointError, load_description, load_into, load_weights
from wavenet.pretrained import config_from
from wavenet.training.state import flatten
from wavenet.widening import widened


def begin_from(model: nn.Module, config: Any, directory: Path | str, kind: str) -> None:
    """Copies the weights of the `kind` in `directory` into a model of the same config, or of one with more.

    A model may begin from one with fewer channels, or from one without pitch: it computes what the other did then
    (`wavenet.widening`), and the head that hears its pitch stays as it is.

    Args:
        config: the model's dataclass.

    Raises:
        CheckpointError: no such checkpoint, or one of another config.
    """
    config_before = config_from(type(config), load_description(directory, kind).model, directory)
    before, now = flatten(asdict(config_before)), flatten(asdict(config))
    changed = [
        f"{name} is {before.get(name)!r} there and {now.get(name)!r} here"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) and not _grows(name, before.get(name), now.get(name))
    ]
    if changed:
        raise CheckpointError(
            f"training cannot begin from the {kind} in {directory}: {'; '.join(changed)}; "
            f"give the settings that it was made with (or more channels), or leave out init_from"
        )
    weights = load_weights(directory)
    if before != now:
        narrow = type(model)(config_before)
        load_into(narrow, weights)
        weights = widened(model, narrow)
    load_into(model, weights)


def _grows(name: str, before: Any, now: Any) -> bool:
    """Whether a setting may change so: more channels where there are some, and pitch."""
    if name == "pitch":
        return bool(now)
    return name.rpartition(".")[2] in ("residual", "gate", "skip") and 0 < before < now
