"""trainer.pt: all that a run needs to go on as if it had never stopped, in one file, so that no two can disagree."""

import io
import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wavenet.checkpoint import DESCRIPTION, WEIGHTS, CheckpointError, write_atomically

FORMAT = 1
STATE = "trainer.pt"


@dataclass
class TrainerState:
    """The state of a run after `step` steps. No random state: every step is seeded by its own number."""

    pinned: dict[str, Any]  # flat "name.of.setting" -> value: what must be the same on resuming
    step: int
    skipped: int  # steps skipped so far, and at the end of the run so far
    skipped_in_a_row: int
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    ema: dict[str, Any]


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as {"model.layers": 30}, in plain JSON types (an enum becomes its text, a tuple a list)."""
    flat: dict[str, Any] = {}
    for name, value in json.loads(json.dumps(settings)).items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def save_state(run: Path, state: TrainerState) -> None:
    """Replace trainer.pt in `run`."""
    buffer = io.BytesIO()  # torch.save straight to a full disk raises no OSError and may leave a file
    torch.save({"format": FORMAT, **vars(state)}, buffer)
    write_atomically(run / STATE, buffer.getbuffer())


def load_state(run: Path, pinned: dict[str, Any]) -> TrainerState | None:
    """The state to resume from, on the CPU, or None for a new run.

    Refuses a run that was begun with other values of the pinned settings, and a directory with a checkpoint that no
    run can go on from (a downloaded voice, say), which a new run would overwrite.
    """
    path = run / STATE
    if not path.exists():
        if (run / WEIGHTS).exists() or (run / DESCRIPTION).exists():
            raise CheckpointError(
                f"{run} holds a checkpoint without {STATE}: training cannot go on from it and would overwrite it; "
                "choose another run directory"
            )
        return None
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        version = saved.pop("format")
    except (OSError, RuntimeError, EOFError, KeyError, AttributeError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); choose another run directory") from error
    if version != FORMAT:
        raise CheckpointError(
            f"{path} has format {version}, and this version resumes format {FORMAT}; "
            "go on with the version that wrote it, or choose another run directory"
        )
    state = TrainerState(**saved)
    _check_pinned(run, state.pinned, pinned)
    return state


def _check_pinned(run: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    changed = [
        f"{name} was {before.get(name, 'absent')!r} and is now {now.get(name, 'absent')!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) and not _has_come(name, before, now)
    ]
    if changed:
        raise CheckpointError(
            f"the run in {run} was begun with other settings: {'; '.join(changed)}; "
            "restore them to go on with it, or choose another run directory"
        )


def _has_come(name: str, before: dict[str, Any], now: dict[str, Any]) -> bool:
    """A setting that the program did not have when the run was begun, and that is off."""
    return name not in before and not now[name]
