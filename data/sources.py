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
    before = read_record(path)
    now = {utterance.id: found for utterance in utterances if (found := _source(utterance)) is not None}
    for name, source in now.items():
        if (source != before[name]) if name in before else _is_older(folder / "wav" / f"{name}.npy", source):
            for kind in FEATURES:
                (folder / kind / f"{name}.npy").unlink(missing_ok=True)
    write_record(path, before | now)


def read_record(path: Path) -> dict[str, Any]:
    """What `write_record` wrote; what cannot be read says nothing."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def write_record(path: Path, record: dict[str, Any]) -> None:
    """One line an id."""
    lines = (f"{json.dumps(name)}: {json.dumps(value)}" for name, value in record.items())
    write_atomic(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())


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
    except FileNotFoundError:
        return False
