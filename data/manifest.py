"""The manifest of a prepared corpus: one JSON object a line, and the split that an utterance's id decides."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from data.atomic import write_atomic

FORMAT = 1  # of a prepared corpus; a reader refuses any other


class DataError(ValueError):
    """A prepared corpus that is missing, damaged, or of another format."""


class Split(StrEnum):
    train = "train"
    valid = "valid"
    test = "test"


@dataclass
class Entry:
    """One prepared utterance; samples = frames * hop, exactly."""

    id: str
    speaker: int  # index into the corpus's list of speakers
    samples: int
    frames: int
    split: Split
    text: str


def hash_of(utterance: str) -> float:
    """An id's place in [0, 1): uniform over ids, the same on every machine."""
    return int.from_bytes(hashlib.sha256(utterance.encode()).digest()[:6], "big") / 2**48


def split_of(utterance: str, valid: float = 0.05, test: float = 0.05) -> Split:
    """The split of an id by its hash alone: [0, test) is test, [test, test + valid) is valid, the rest train.

    An utterance thus stays in its split when others are added or removed.
    """
    place = hash_of(utterance)
    if place < test:
        return Split.test
    return Split.valid if place < test + valid else Split.train


def assign_splits(ids: Sequence[str], valid: float = 0.05, test: float = 0.05) -> dict[str, Split]:
    """`split_of` for each id, except that no split stays empty in a small corpus.

    In the order of their hashes the ids are cut into test, valid, train; a cut that would leave a split empty moves by
    one id. Only the ids nearest to the cuts ever differ from `split_of`.

    Raises:
        ValueError: fewer than three ids.
    """
    if len(ids) < 3:
        raise ValueError(f"{len(ids)} usable utterances cannot fill train, valid and test; give at least three")
    order = sorted(ids, key=lambda utterance: (hash_of(utterance), utterance))
    by_hash = [split_of(utterance, valid, test) for utterance in order]
    n_test = min(max(1, by_hash.count(Split.test)), len(order) - 2)
    n_valid = min(max(1, by_hash.count(Split.valid)), len(order) - 1 - n_test)
    n_train = len(order) - n_test - n_valid
    return dict(zip(order, [Split.test] * n_test + [Split.valid] * n_valid + [Split.train] * n_train, strict=True))


def write_manifest(path: Path, entries: Iterable[Entry]) -> None:
    """One line an entry, atomically."""
    lines = (json.dumps(asdict(entry), ensure_ascii=False) + "\n" for entry in entries)
    write_atomic(path, "".join(lines).encode())


def read_manifest(path: Path) -> list[Entry]:
    """Read what `write_manifest` wrote.

    Raises:
        DataError: no such file, or a line that is not an entry.
    """
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); run `wavenet prepare` again") from error
    entries = []
    for number, line in enumerate(lines, start=1):
        try:
            entry = Entry(**json.loads(line))
            entry.split = Split(entry.split)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{path}: line {number} is not an entry of a manifest ({error}); run `wavenet prepare` again"
            ) from error
        entries.append(entry)
    return entries
