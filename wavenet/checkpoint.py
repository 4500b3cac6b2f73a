"""A checkpoint is a directory that explains itself.

    model.safetensors   the averaged (EMA) weights; its header holds a sha256 of names, types, shapes and bytes
    config.json         `Description`: what the weights are, enough to rebuild the model and its mel
    trainer.pt          present while training: all that resuming needs (`wavenet.training.state`)

Every file is replaced atomically. Every failure is a `CheckpointError` that names the value, the rule and the remedy.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from data.atomic import write_atomic

FORMAT = 1
WEIGHTS = "model.safetensors"
DESCRIPTION = "config.json"
MAKERS = {  # kind -> the command that makes one
    "teacher": "wavenet train",
    "student": "wavenet distill",
    "classifier": "wavenet train-classifier",
    "pitch": "wavenet train condition.pitch=true",
}


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, written, or used for what was asked."""


@dataclass(kw_only=True)
class Description:
    """config.json: what the weights beside it are.

    `model` and `mel` are the fields of the config dataclasses that rebuild the network and its mel; `gain` times the
    waveform of a file is the network's waveform; `speakers` are the names behind the speaker indices; `step` counts
    the training steps behind the weights; `training` is whatever else a reader should know of the run; `bands` are the
    fields of `data.bands.Bands`, of the corpus, {} where that was not measured: config.json may leave them out.
    """

    format: int = FORMAT
    kind: str
    model: dict[str, Any]
    mel: dict[str, Any]
    gain: float
    speakers: list[str] = field(default_factory=list)
    step: int = 0
    training: dict[str, Any] = field(default_factory=dict)
    bands: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str) or self.kind not in MAKERS:
            raise CheckpointError(f"kind is {self.kind!r}; a checkpoint is one of: {', '.join(MAKERS)}")
        for name in ("model", "mel", "training", "bands"):
            if not isinstance(getattr(self, name), dict):
                raise CheckpointError(f"{name} is {getattr(self, name)!r}; it must be a mapping of settings")
        if type(self.gain) not in (int, float) or not 0.0 < self.gain < math.inf:
            raise CheckpointError(f"gain is {self.gain!r}; it must be a positive finite number")
        if not isinstance(self.speakers, list) or not all(isinstance(name, str) for name in self.speakers):
            raise CheckpointError(f"speakers is {self.speakers!r}; it must be a list of names")
        if type(self.step) is not int or self.step < 0:
            raise CheckpointError(f"step is {self.step!r}; it must be a whole number, 0 or more")


def save_weights(directory: Path | str, state: Mapping[str, Tensor]) -> None:
    """Replace the weights in `directory` by `state`. Weights that are not finite are refused; the old file stays."""
    path = Path(directory) / WEIGHTS
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    _check_finite(path, tensors)
    write_atomically(path, safetensors.torch.save(tensors, metadata={"sha256": _digest(tensors)}))


def load_weights(directory: Path | str) -> dict[str, Tensor]:
    """The weights in `directory`, on the CPU, after their hash and their values have been checked."""
    path = _existing(Path(directory), WEIGHTS)
    try:
        with safe_open(path, framework="pt") as file:
            expected = (file.metadata() or {}).get("sha256")
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is truncated or no safetensors file ({error}); copy it again") from error
    if expected is None:
        raise CheckpointError(
            f"{path} carries no sha256, so it was not written by this project; use a checkpoint that was"
        )
    if expected != _digest(tensors):
        raise CheckpointError(f"{path} does not match its sha256 {expected}: it was changed or damaged; copy it again")
    _check_finite(path, tensors)
    return tensors


def load_into(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy `state` into `module`: the names and shapes must be exactly the module's own."""
    own = module.state_dict()
    faults = [f"{name} is missing" for name in own if name not in state]
    faults += [f"{name} is unknown" for name in state if name not in own]
    faults += [
        f"{name} has shape {list(state[name].shape)}, not {list(tensor.shape)}"
        for name, tensor in own.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if faults:
        rest = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise CheckpointError(
            f"the weights do not fit the {type(module).__name__} that the configuration describes: "
            f"{'; '.join(faults[:5])}{rest}; use {WEIGHTS} and {DESCRIPTION} of the same checkpoint"
        )
    module.load_state_dict(state)


def save_description(directory: Path | str, description: Description) -> None:
    """Replace config.json in `directory`."""
    text = json.dumps(asdict(description), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(Path(directory) / DESCRIPTION, (text + "\n").encode())


def load_description(directory: Path | str, kind: str | None = None) -> Description:
    """config.json of `directory`; with `kind` given, a checkpoint of another kind is refused."""
    path = _existing(Path(directory), DESCRIPTION)
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:  # ValueError: JSON and UTF-8 alike
        raise CheckpointError(f"{path} is not JSON ({error}); copy the checkpoint again") from error
    if not isinstance(values, dict) or type(values.get("format")) is not int:
        raise CheckpointError(f"{path} has no format number, so it describes no checkpoint; name another directory")
    if not 1 <= values["format"] <= FORMAT:
        raise CheckpointError(
            f"{path} has format {values['format']}, and this version reads up to {FORMAT}: "
            "it was made by a newer version of parallel-wavenet; upgrade to read it"
        )
    description = _description(path, values)
    if kind is not None and description.kind != kind:
        raise CheckpointError(
            f"{directory} holds a {description.kind}, and a {kind} is needed; `{MAKERS[kind]}` makes one"
        )
    return description


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """`write_atomic` that lasts, makes the folder and fails with a `CheckpointError`."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data, durable=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the file system refuses (no space, no permission) into a `CheckpointError` that says what to do."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"cannot write {path}: {error.strerror or error}; free space there or make the folder writable, "
            "then run the same command again (complete checkpoints stay as they are)"
        ) from error


def _existing(directory: Path, name: str) -> Path:
    makers = " or ".join(f"`{maker}`" for maker in MAKERS.values())
    if not directory.is_dir():
        raise CheckpointError(f"{directory} is not a directory; name a checkpoint directory that {makers} wrote")
    if not (directory / name).is_file():
        raise CheckpointError(
            f"{directory} holds no {name}; name a checkpoint directory that {makers} wrote "
            "(a run that has only begun has none yet)"
        )
    return directory / name


def _description(path: Path, values: dict[str, Any]) -> Description:
    names = {field.name for field in fields(Description)}
    for fault, wrong in (("lacks", names - values.keys() - {"bands"}), ("has the unknown", values.keys() - names)):
        if wrong:
            raise CheckpointError(f"{path} {fault} {', '.join(sorted(wrong))}; copy the checkpoint again")
    try:
        return Description(**values)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise CheckpointError(f"{path}: {name} holds NaN or Inf; go back to a checkpoint whose weights are finite")
