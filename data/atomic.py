"""Files that are either absent or whole."""

import hashlib
import os
from pathlib import Path

LONGEST_NAME = 255  # bytes


def write_atomic(path: Path, content: bytes | memoryview, *, durable: bool = False) -> None:
    """Write `content` beside `path`, then rename: whoever reads, after a crash at any moment, sees all or nothing.

    Args:
        durable: force it to the disk, so that a power cut cannot lose it either; this takes milliseconds.

    Raises:
        OSError: the folder is missing or not writable, or the disk is full; it names `path`, which keeps its content.
    """
    temporary = _temporary(path)
    try:
        with temporary.open("wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
        if durable:
            _sync_folder(path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    """A fixed name, so that what a kill leaves is reused; of a name as long as may be, its hash."""
    name = f".{path.name}.tmp"
    too_long = len(os.fsencode(name)) > LONGEST_NAME
    return path.with_name(f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()}.tmp" if too_long else name)


def _sync_folder(folder: Path) -> None:
    """Force a rename itself to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
