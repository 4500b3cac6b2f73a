"""log.jsonl: the curves of a run as JSON lines, with every digit, for programs (TensorBoard is for eyes).

It holds nothing that depends on the clock: a run that was killed and resumed leaves the same bytes as one that was not.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from wavenet.checkpoint import write_atomically, writing

JOURNAL = "log.jsonl"


class Journal:
    """Appends to RUN/log.jsonl; lines later than `step`, from which the run goes on, are dropped first."""

    def __init__(self, run: Path, step: int) -> None:
        self._path = run / JOURNAL
        kept = _lines_until(self._path, step) if self._path.exists() else []
        write_atomically(self._path, "".join(kept).encode())
        with writing(self._path):
            self._file = self._path.open("a", encoding="utf-8")

    def write(self, step: int, values: Mapping[str, float | str]) -> None:
        """Append one line; NaN and Inf, which JSON lacks, are written as null."""
        finite = {
            name: value if isinstance(value, str) or math.isfinite(value) else None for name, value in values.items()
        }
        with writing(self._path):
            self._file.write(json.dumps({"step": step, **finite}) + "\n")
            self._file.flush()

    def sync(self) -> None:
        """Force the lines to the disk."""
        with writing(self._path):
            os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()


def _lines_until(path: Path, step: int) -> list[str]:
    """The lines up to `step`. One that a kill cut short ends them: it is later than any checkpoint."""
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        try:
            if json.loads(line)["step"] > step or not line.endswith("\n"):
                break
        except (ValueError, KeyError, TypeError):
            break
        kept.append(line)
    return kept
