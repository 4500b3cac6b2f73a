"""A checkpoint directory -> the model that it describes, ready to run."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from data.mel import MelConfig
from wavenet.checkpoint import CheckpointError, Description, load_description, load_into, load_weights
from wavenet.model import WaveNet, WaveNetConfig

Config = TypeVar("Config")
Model = TypeVar("Model", bound=nn.Module)


def load_teacher(directory: Path | str) -> tuple[WaveNet, Description]:
    """A teacher's checkpoint as a model in eval mode on the CPU.

    Raises:
        CheckpointError: missing, damaged, of another kind or format, or inconsistent.
    """
    return load_model(directory, "teacher", WaveNetConfig, WaveNet)


def load_model(
    directory: Path | str, kind: str, config_type: type[Config], model_type: Callable[[Config], Model]
) -> tuple[Model, Description]:
    """The model of `kind` in `directory`, rebuilt from its own description; see `load_teacher`."""
    description = load_description(directory, kind)
    config = config_from(config_type, description.model, directory)
    model = model_type(config)
    load_into(model, load_weights(directory))
    return model.eval(), description


def mel_config(description: Description, directory: Path | str) -> MelConfig:
    """The mel that a checkpoint was trained on."""
    return config_from(MelConfig, description.mel, directory)


def config_from(config_type: type[Config], values: dict[str, Any], directory: Path | str) -> Config:
    """A (nested) config dataclass from the plain values of a description."""
    try:
        return _build(config_type, values)
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{directory}: its config.json describes no {config_type.__name__} ({error}); copy the checkpoint again"
        ) from error


def _build(config_type: type[Config], values: dict[str, Any]) -> Config:
    nested = {f.name: f.type for f in fields(config_type) if is_dataclass(f.type)}  # type: ignore[arg-type]
    return config_type(
        **{name: _build(nested[name], value) if name in nested else value for name, value in values.items()}  # type: ignore[arg-type]
    )
