"""A checkpoint directory -> the model that it describes, ready to run."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

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
    voices, named = description.model.get("n_speakers", 0), len(description.speakers)
    if voices != named:
        raise CheckpointError(
            f"{directory}: its config.json names {named} speakers for a model of {voices}; copy the checkpoint again"
        )
    try:
        model = model_type(config)
    except (RuntimeError, TypeError, ValueError, OverflowError, MemoryError) as error:  # torch's, of absurd sizes
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{directory}: its config.json describes a {kind} that cannot be built ({reason}); "
            "copy the checkpoint again"
        ) from error
    load_into(model, load_weights(directory))
    return model.eval(), description


def mel_config(description: Description, directory: Path | str) -> MelConfig:
    """The mel that a checkpoint was trained on.

    Raises:
        CheckpointError: config.json describes none, or one that its model does not read.
    """
    mel = config_from(MelConfig, description.mel, directory)
    bands, hop = description.model.get("n_mels", 0), description.model.get("hop_length")
    if bands not in (0, mel.n_mels) or hop != mel.hop_length:  # 0: a model that reads no mel
        raise CheckpointError(
            f"{directory}: by its config.json the model reads {bands} bands every {hop} samples, but its mel has "
            f"{mel.n_mels} every {mel.hop_length}; copy the checkpoint again"
        )
    return mel


def config_from(config_type: type[Config], values: dict[str, Any], directory: Path | str) -> Config:
    """A (nested) config dataclass from the plain values of a description, each of its field's type.

    Raises:
        CheckpointError: unknown fields, values of another type, or ones that the dataclass refuses.
    """
    try:
        return _build(config_type, values)
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{directory}: its config.json describes no {config_type.__name__} ({error}); copy the checkpoint again"
        ) from error


def _build(config_type: type[Config], values: dict[str, Any]) -> Config:
    types = {f.name: f.type for f in fields(config_type)}  # type: ignore[arg-type]
    unknown = sorted(values.keys() - types)
    if unknown:
        raise TypeError(f"unknown: {', '.join(unknown)}")
    return config_type(**{name: _value(types[name], name, value) for name, value in values.items()})


def _value(expected: Any, name: str, value: Any) -> Any:
    """A value as JSON holds it, as its field's type: a dataclass, a list, an enum, or a plain type."""
    if is_dataclass(expected):
        return _build(expected, value)  # type: ignore[arg-type]
    if get_origin(expected) is list and isinstance(value, list):
        return [_value(get_args(expected)[0], name, item) for item in value]
    if isinstance(expected, type) and issubclass(expected, StrEnum):
        return expected(value)
    if type(value) is expected or (expected is float and type(value) is int):
        return value
    raise TypeError(f"{name} is {value!r}, but must be of the type {getattr(expected, '__name__', expected)}")
