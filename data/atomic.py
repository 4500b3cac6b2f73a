"""Files that are either absent or whole."""

import os
from pathlib import Path


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` beside `path`, then rename: whoever reads, after a crash at any moment, sees all or nothing.

    Raises:
        OSError: the folder is missing or not writable, or the disk is full; `path` keeps its old content.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
