"""What the features of a prepared corpus were made of: where that is another by now, they are not those of the corpus.

DIR/sources.json   id -> size in bytes and time of change in ns of its file, or the hash of the text that eSpeak speaks
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.atomic import write_atomic
from data.corpora import Utterance

FEATURES = ("wav", "mel", "f0", "phones")


def hash_text(text: str) -> str:
    """The same on every machine."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def forget_replaced(folder: Path, utterances: Sequence[Utterance]) -> None:
    """Remove the features of all utterances with another source than before; then write down what it is now.

    Of features from before sources were written down, those are removed that are older than their file.

    Raises:
        OSError: the folder is not writable, or the disk is full.
    """
    path = folder / "sources.json"
    before = _read(path)
    now = {utterance.id: found for utterance in utterances if (found := _source(utterance)) is not None}
    for name, source in now.items():
        if (source != before[name]) if name in before else _is_older(folder / "wav" / f"{name}.npy", source):
            for kind in FEATURES:
                (folder / kind / f"{name}.npy").unlink(missing_ok=True)
    write_atomic(path, json.dumps(before | now, ensure_ascii=False, indent=0).encode())


def _source(utterance: Utterance) -> Any:
    """None for a file that is not there, which `prepare` reports."""
    if utterance.path is None:
        return hash_text(f"{utterance.speaker}|{utterance.text}")
    try:
        status = utterance.path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def _is_older(feature: Path, source: Any) -> bool:
    try:
        return isinstance(source, list) and feature.stat().st_mtime_ns < source[1]
    except OSError:  # not there, or of a name that no file can have
        return False


def _read(path: Path) -> dict[str, Any]:
    """What cannot be read says nothing."""
    try:
        sources = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return sources if isinstance(sources, dict) else {}
