"""Arrays in `.npy` files."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.atomic import write_atomic
from data.manifest import DataError, Entry


def load_npy(path: Path) -> npt.NDArray[Any]:
    """A stored array, memory-mapped: only what is sliced is read.

    Raises:
        OSError: the file is missing, or not permitted to be read.
        ValueError: it is no plain `.npy` array, or a part of one.
    """
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except OSError:
        raise
    except Exception as error:  # a damaged header raises whatever Python's tokenizer, its parser or mmap do
        raise ValueError(f"not a plain .npy array: {error}") from error


def save_npy(path: Path, array: npt.NDArray[Any]) -> None:
    """Write all or nothing; errors are those of `write_atomic`."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_atomic(path, buffer.getvalue())


def load_feature(folder: Path, kind: str, entry: Entry, dtype: type, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """The array of an utterance in a prepared corpus: folder/kind/ID.npy, memory-mapped.

    Raises:
        DataError: it is missing, damaged, or of another type or shape.
    """
    path = folder / kind / f"{entry.id}.npy"
    program = "wavenet train-classifier" if kind == "phones" else "wavenet prepare"
    try:
        array = load_npy(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); run `{program}` again") from error
    if array.dtype != dtype or array.shape != shape:
        raise DataError(
            f"{path}: holds {array.dtype} {array.shape}, the manifest says {np.dtype(dtype)} {shape}; "
            f"remove the file and run `{program}` again"
        )
    return array
