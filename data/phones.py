"""Phones of a prepared corpus: a label for every mel frame, in files beside the features.

DIR/phones.json      format, voice, phones: the names behind the labels, PAUSE first, then as they first occur
DIR/phones/ID.npy    int16 (L,)
DIR/texts.json       id -> hash of the text that was labelled
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from data.alignment import align
from data.arrays import load_feature, load_npy, save_npy
from data.atomic import write_atomic
from data.audio import AudioError
from data.corpora import CorpusKind, Skip
from data.dataset import Batch, Crop, CropDataset, PreparedCorpus, collate
from data.espeak import PAUSE
from data.manifest import DataError, Entry, Split
from data.mel import MelConfig, gained_mel
from data.parallel import map_in_order
from data.sources import hash_text, read_record, write_record

FORMAT = 1

Labels = npt.NDArray[np.int16]


@dataclass
class PhoneReport:
    """What came of `label_corpus`."""

    folder: Path
    phones: list[str]
    labelled: int  # utterances, the resumed ones included
    resumed: int  # utterances that an earlier run had finished
    left_out: list[Skip]

    def __str__(self) -> str:
        lines = [f"{self.folder}: {self.labelled} utterances labelled with {len(self.phones)} phones"]
        if self.resumed:
            lines.append(f"{self.resumed} of them were there already")
        if self.left_out:
            lines.append(f"left out {len(self.left_out)}:")
            lines += [f"  {skip.name}: {skip.reason}" for skip in self.left_out[:10]]
        if len(self.left_out) > 10:
            lines.append(f"  and {len(self.left_out) - 10} more")
        return "\n".join(lines)


def label_corpus(corpus: PreparedCorpus, voice: str, workers: int | None) -> PhoneReport:
    """Write the phones of every utterance that has a text; after an interruption the same call goes on, and where
    texts were replaced it labels these again.

    Args:
        voice: of eSpeak; a corpus that eSpeak spoke itself keeps its own voices.
        workers: processes; None: one per core, 0: this one.

    Raises:
        DataError: no utterance has a text, or the labels that are there were made with another voice.
        OSError: the folder is not writable, or the disk is full.
    """
    folder = corpus.folder
    entries = sorted((entry for split in Split for entry in corpus.entries(split)), key=lambda entry: entry.id)
    with_text = [entry for entry in entries if entry.text]
    if not with_text:
        raise DataError(
            f"{folder}: none of its {len(entries)} utterances has a text, and phones are labelled by texts: "
            "add a metadata.csv (id|text) to the recordings and run `wavenet prepare` into another folder"
        )
    left_out = [Skip(entry.id, "no text") for entry in entries if not entry.text]
    names = _claim(folder, voice)
    _forget_replaced(folder, entries)
    open_entries = [entry for entry in with_text if not _is_labelled(folder, entry)]
    voices = corpus.speakers if _is_synthetic(folder) else [voice] * len(corpus.speakers)
    process = partial(_phones_of, folder=folder, voices=voices, config=corpus.mel)
    for entry, found in zip(open_entries, map_in_order(process, open_entries, workers, "phones"), strict=True):
        if isinstance(found, Skip):
            left_out.append(found)
            continue
        new = [name for name in dict.fromkeys(found) if name not in names]
        if new:
            names += new
            _write_names(folder, voice, names)  # before the labels that need them
        save_npy(_path(folder, entry), np.array([names.index(name) for name in found], np.int16))
    labelled = len(entries) - len(left_out)
    return PhoneReport(folder, names, labelled, len(with_text) - len(open_entries), left_out)


class LabelledCorpus(PreparedCorpus):
    """A prepared corpus that `label_corpus` went over; its entries are those with labels.

    Attributes:
        names: the phones behind the labels.

    Raises:
        DataError: no labels, or damaged ones.
    """

    def __init__(self, folder: str | Path, gain: float | None = None) -> None:
        super().__init__(folder, gain)
        settings = _read_names(self.folder)
        if settings is None:
            raise DataError(f"{self.folder}: it has no phones.json; run `wavenet train-classifier`, which makes it")
        self.names: list[str] = settings["phones"]

    def entries(self, split: str) -> list[Entry]:
        return [entry for entry in super().entries(split) if _path(self.folder, entry).is_file()]

    def phones(self, entry: Entry) -> Labels:
        """Indices into `names` (L,), memory-mapped."""
        labels: Labels = self._load("phones", entry, np.int16, (entry.frames,))
        if labels.min() < 0 or labels.max() >= len(self.names):
            raise DataError(
                f"{_path(self.folder, entry)}: labels from {labels.min()} to {labels.max()}, but phones.json names "
                f"{len(self.names)}; remove phones/ and phones.json and run `wavenet train-classifier` again"
            )
        return labels


@dataclass
class PhoneCrop(Crop):
    """A crop, and the phones of its target."""

    phones: npt.NDArray[np.int64] = field(kw_only=True)  # (frames,)


@dataclass
class PhoneBatch(Batch):
    """Aligned windows, and the phones of all frames after the left context."""

    phones: Tensor = field(kw_only=True)  # (B, frames) int64

    def to(self, device: torch.device | str) -> "PhoneBatch":
        moved = super().to(device)
        return PhoneBatch(**vars(moved), phones=self.phones.to(device))


class PhoneDataset(CropDataset):
    """Random crops with their phones."""

    corpus: LabelledCorpus

    def crop(self, entry: Entry, start: int, gain: float = 1.0) -> PhoneCrop:
        phones = self.corpus.phones(entry)[start : start + self.frames].astype(np.int64)
        return PhoneCrop(**vars(super().crop(entry, start, gain)), phones=phones)

    def batch(self, crops: Sequence[Any]) -> PhoneBatch:
        return PhoneBatch(**vars(collate(crops)), phones=torch.from_numpy(np.stack([crop.phones for crop in crops])))


def whole_with_phones(corpus: LabelledCorpus, entry: Entry) -> PhoneBatch:
    """A complete utterance as a batch of one."""
    phones = torch.from_numpy(corpus.phones(entry).astype(np.int64))
    return PhoneBatch(**vars(corpus.whole(entry)), phones=phones[None])


def _phones_of(entry: Entry, folder: Path, voices: list[str], config: MelConfig) -> list[str] | Skip:
    stored = load_feature(folder, "mel", entry, np.float32, (config.n_mels, entry.frames))
    try:
        return align(entry.text, voices[entry.speaker], gained_mel(stored, 1.0, config), config)
    except AudioError as error:
        return Skip(entry.id, str(error))


def _claim(folder: Path, voice: str) -> list[str]:
    """The names of an earlier run with this voice, or those of a new one."""
    settings = _read_names(folder)
    if settings is None:
        if (folder / "phones").exists():
            raise DataError(f"{folder} holds phones/ but no phones.json to name them; remove phones/")
        _write_names(folder, voice, [PAUSE])
        settings = {"voice": voice, "phones": [PAUSE]}
    if settings["voice"] != voice:
        raise DataError(
            f"{folder}: its phones were labelled with the voice {settings['voice']!r}, not {voice!r}; "
            f"give voice={settings['voice']}, or remove phones/ and phones.json"
        )
    (folder / "phones").mkdir(exist_ok=True)
    names: list[str] = settings["phones"]
    return names


def _forget_replaced(folder: Path, entries: list[Entry]) -> None:
    """Remove the labels of other texts than these, and of what has none."""
    record = folder / "texts.json"
    before, now = read_record(record), {entry.id: hash_text(entry.text) for entry in entries}
    for entry in entries:
        if not entry.text or before.get(entry.id, now[entry.id]) != now[entry.id]:
            _path(folder, entry).unlink(missing_ok=True)
    write_record(record, before | now)


def _read_names(folder: Path) -> dict[str, Any] | None:
    path = folder / "phones.json"
    if not path.is_file():
        return None
    try:
        settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        right = settings["format"] == FORMAT and isinstance(settings["voice"], str) and PAUSE in settings["phones"]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: damaged ({error!r}); remove it and phones/, and label again") from error
    if not right:
        raise DataError(f"{path}: of another format, or damaged; remove it and phones/, and label again")
    return settings


def _write_names(folder: Path, voice: str, names: list[str]) -> None:
    settings = {"format": FORMAT, "voice": voice, "phones": names}
    write_atomic(folder / "phones.json", json.dumps(settings, ensure_ascii=False, indent=2).encode())


def _is_synthetic(folder: Path) -> bool:
    """Whether eSpeak spoke the corpus: then the names of its speakers are voices."""
    path = folder / "settings.json"
    try:
        kind: str = json.loads(path.read_text(encoding="utf-8"))["corpus"]["kind"]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: missing or damaged ({error!r}); run `wavenet prepare` again") from error
    return kind == CorpusKind.espeak


def _is_labelled(folder: Path, entry: Entry) -> bool:
    try:
        labels = load_npy(_path(folder, entry))
    except (OSError, ValueError):
        return False
    return labels.dtype == np.int16 and labels.shape == (entry.frames,)


def _path(folder: Path, entry: Entry) -> Path:
    return folder / "phones" / f"{entry.id}.npy"
