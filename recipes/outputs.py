"""Where the programs write."""

import os
from pathlib import Path


class OutputError(ValueError):
    """A folder that cannot be written."""


def check_writable(folder: Path | str) -> None:
    """Refuse a folder that cannot be made or written, before any work is done. Makes nothing itself.

    Raises:
        OutputError: a file is in its place or on the way to it, or there is no permission.
    """
    existing = next(path for path in (Path(folder), *Path(folder).absolute().parents) if path.exists())
    if not existing.is_dir():
        raise OutputError(f"{folder} cannot be written: {existing} is no folder; name another one")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError(f"{folder} cannot be written: there is no permission for {existing}; name another folder")
