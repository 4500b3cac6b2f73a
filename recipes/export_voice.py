"""The averaged weights of a run become a voice that ships: `python -m recipes.export_voice RUN NAME`

Matrices are rounded to bfloat16, which halves what is downloaded; biases stay. README.md of the voice says the rest.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor

from recipes.cli import report_errors
from serve.voices import HOME
from wavenet.checkpoint import WEIGHTS, load_description, load_weights, save_description, save_weights


def export_voice(run: Path, folder: Path) -> int:
    """Weights and description of `run` in `folder`; the bytes of the weights.

    Raises:
        CheckpointError: `run` is no checkpoint, or `folder` cannot be written.
    """
    description, weights = load_description(run), load_weights(run)
    save_weights(folder, {name: _rounded(weight) for name, weight in weights.items()})
    save_description(folder, description)
    return (folder / WEIGHTS).stat().st_size


def _rounded(weight: Tensor) -> Tensor:
    return weight.to(torch.bfloat16) if weight.dim() > 1 else weight


if __name__ == "__main__":
    with report_errors():
        if len(sys.argv) != 3:
            raise ValueError(f"{len(sys.argv) - 1} arguments were given: give RUN and NAME")
        print(f"{HOME / sys.argv[2]}: {export_voice(Path(sys.argv[1]), HOME / sys.argv[2]) / 1e6:.1f} MB")
