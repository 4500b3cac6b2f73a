"""Prepared corpora, and hop-aligned crops of them with the context that the networks need on both sides."""

import json
import math
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from data.arrays import load_feature
from data.audio import PCM_SCALE, from_pcm
from data.manifest import FORMAT, DataError, Entry, Split, read_manifest
from data.mel import GAIN_LIMIT, MelConfig, gained_mel

SILENCE_PEAK = 0.005  # of the network's waveform: 40 dB under the loudest sample of the corpus
TRIES = 16  # draws for a crop that is not silent, before a silent one is taken


@dataclass
class Batch:
    """Aligned windows of a network's waveform and its mel."""

    wav: Tensor  # (B, T) T = (left_frames + frames) * hop; zeros before the start of the utterance
    mel: Tensor  # (B, M, left_frames + frames + 2 * margin); edge frames repeated outside the utterance
    speaker: Tensor  # (B,) int64
    left: int  # samples of left context, left_frames * hop: the network reads them, the loss does not
    margin: int  # mel frames beyond the waveform on each side
    f0: Tensor | None = None  # (B, L) of the mel's frames, periods a sample, 0 where unvoiced; None: not measured
    padding: Tensor | None = None  # (B,) int64, samples of wav before the start of the utterance; None: none of any row

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch with its tensors on `device`."""
        f0, padding = (None if each is None else each.to(device) for each in (self.f0, self.padding))
        wav, mel, speaker = (each.to(device) for each in (self.wav, self.mel, self.speaker))
        return Batch(wav, mel, speaker, self.left, self.margin, f0, padding)


@dataclass
class Crop:
    """One row of a batch."""

    wav: npt.NDArray[np.float32]  # (T,)
    mel: npt.NDArray[np.float32]  # (M, L)
    speaker: int
    left: int
    margin: int
    f0: npt.NDArray[np.float32] | None = None  # (L,)
    padding: int = 0  # samples of wav before the start of the utterance


@dataclass
class CropConfig:
    """What a training step sees of an utterance; the context around it is the networks' to say."""

    frames: int = 32  # in the loss
    random_gain_db: float = 6.0  # each crop is made up to so much louder or quieter, and no louder than [-1, 1]

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ValueError(f"frames must be at least 1, not {self.frames}")
        limit = 20 * math.log10(GAIN_LIMIT)
        if not 0 <= self.random_gain_db <= limit:
            raise ValueError(
                f"random_gain_db must be from 0 to {limit:.2f} (the stored mel's floor allows no more), "
                f"not {self.random_gain_db}"
            )


class PreparedCorpus:
    """A folder that `data.prepare` wrote, opened for reading; features are read by memory map, on demand.

    Args:
        gain: that of a model which exists already; by default the corpus' own.

    Attributes:
        mel: the config of the features.
        gain: the network's waveform is the file's times this.
        scale, silence_log_scale: see `data.levels.CorpusLevels`.
        speakers: names; an Entry's speaker is an index into them.
        pitch: whether F0 was measured.

    Raises:
        DataError: not a prepared corpus, another format, or files that are missing or damaged.
    """

    def __init__(self, folder: str | Path, gain: float | None = None) -> None:
        self.folder = Path(folder)
        corpus = _read_corpus(self.folder / "corpus.json")
        try:
            self.mel = MelConfig(**corpus["mel"])
            own_gain = float(corpus["gain"])
            self.gain = own_gain if gain is None else gain
            self.scale = float(corpus["scale"]) * self.gain / own_gain
            self.silence_log_scale = float(corpus["silence_log_scale"]) + math.log(self.gain / own_gain)
            self.speakers = [str(name) for name in corpus["speakers"]]
            self.pitch = bool(corpus.get("pitch", False))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{self.folder / 'corpus.json'}: damaged ({error!r}); run `wavenet prepare` again"
            ) from error
        self._entries = read_manifest(self.folder / "manifest.jsonl")
        for kind in ("wav", "mel", "f0")[: 3 if self.pitch else 2]:
            present = {path.stem for path in (self.folder / kind).glob("*.npy")}
            missing = [entry.id for entry in self._entries if entry.id not in present]
            if missing:
                raise DataError(
                    f"{self.folder / kind}: {missing[0]}.npy is missing ({len(missing)} files in all); "
                    "run `wavenet prepare` again"
                )

    def entries(self, split: str) -> list[Entry]:
        """The utterances of `train`, `valid` or `test`, in the order of their ids."""
        return [entry for entry in self._entries if entry.split is Split(split)]

    def wav(self, entry: Entry) -> npt.NDArray[np.float32]:
        """The network's waveform (T,): the file's times the corpus's gain."""
        return from_pcm(self.pcm(entry)) * np.float32(self.gain)

    def mel_of(self, entry: Entry) -> npt.NDArray[np.float32]:
        """log_mel (M, L) of the file as it is, without the gain."""
        return gained_mel(self.stored_mel(entry), 1.0, self.mel)

    def f0_of(self, entry: Entry) -> npt.NDArray[np.float32] | None:
        """F0 (L,) in periods a sample, 0 where there is no voice; None where it was not measured."""
        if not self.pitch:
            return None
        return (self._load("f0", entry, np.float32, (entry.frames,)) / self.mel.sample_rate).astype(np.float32)

    def whole(self, entry: Entry) -> Batch:
        """A complete utterance, without context, as a batch of one."""
        return collate([Crop(self.wav(entry), self.mel_of(entry), entry.speaker, 0, 0, self.f0_of(entry))])

    def pcm(self, entry: Entry) -> npt.NDArray[np.int16]:
        """The stored samples (T,), memory-mapped: only what is sliced is read."""
        return self._load("wav", entry, np.int16, (entry.samples,))

    def stored_mel(self, entry: Entry) -> npt.NDArray[np.float32]:
        """The stored log-mel (M, L), memory-mapped; its floor is the config's / GAIN_LIMIT."""
        return self._load("mel", entry, np.float32, (self.mel.n_mels, entry.frames))

    def _load(self, kind: str, entry: Entry, dtype: type, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        return load_feature(self.folder, kind, entry, dtype, shape)


class CropDataset(Dataset[Crop]):
    """Random crops without end: crop n is a pure function of (seed, n), so that a run can stop and go on anywhere.

    An utterance is drawn in proportion to its length, then a start frame, such that all `frames` frames lie within the
    utterance; shorter utterances are left out. The left context may reach before its start, where the waveform is 0 and
    the mel repeats its first frame, as F0 does. From `train`, silent crops are drawn again.

    Args:
        frames: frames of the target, those in the loss.
        left_frames: frames of left context before them.
        margin: further mel frames on both sides, for the context network.
        random_gain_db: each crop's level changes by a gain drawn from +- so many dB, uniformly; none takes it
            out of [-1, 1], beyond which the networks know no sound.
    """

    def __init__(
        self,
        corpus: PreparedCorpus,
        split: str,
        frames: int,
        left_frames: int,
        margin: int,
        random_gain_db: float,
        seed: int,
    ) -> None:
        CropConfig(frames, random_gain_db)  # checks both
        entries = corpus.entries(split)
        self.entries = [entry for entry in entries if entry.frames >= frames]
        if not self.entries:
            longest = max((entry.frames for entry in entries), default=0)
            raise ValueError(
                f"{corpus.folder}: no {split} utterance has {frames} frames (the longest has {longest}); "
                "lower the frames of a crop, or prepare longer recordings"
            )
        self.corpus, self.split = corpus, Split(split)
        self.frames, self.left_frames, self.margin = frames, left_frames, margin
        self.random_gain_db, self.seed = random_gain_db, seed
        self._ends = np.cumsum([entry.frames for entry in self.entries])

    def __getitem__(self, n: int) -> Crop:
        key = np.array([self.seed, n], dtype=np.uint64)
        rng = np.random.Generator(np.random.Philox(key=key))
        entry, start = self._draw(rng)
        gain = 10 ** (rng.uniform(-self.random_gain_db, self.random_gain_db) / 20)
        return self.crop(entry, start, min(gain, self._headroom(entry, start)))

    def crop(self, entry: Entry, start: int, gain: float = 1.0) -> Crop:
        """The crop whose target begins at frame `start`, its level changed by `gain`."""
        hop, left = self.corpus.mel.hop_length, self.left_frames * self.corpus.mel.hop_length
        begin, end = start * hop - left, (start + self.frames) * hop
        padding = max(0, -begin)
        inside = self.corpus.pcm(entry)[max(0, begin) : end]
        wav = from_pcm(np.pad(inside, (padding, 0))) * np.float32(self.corpus.gain * gain)
        frames = np.arange(start - self.left_frames - self.margin, start + self.frames + self.margin)
        frames = frames.clip(0, entry.frames - 1)
        mel = gained_mel(self.corpus.stored_mel(entry)[:, frames], gain, self.corpus.mel)
        f0 = self.corpus.f0_of(entry)
        return Crop(wav, mel, entry.speaker, left, self.margin, None if f0 is None else f0[frames], padding)

    def batch(self, crops: Sequence[Any]) -> Batch:
        """What a loader makes of several crops."""
        return collate(crops)

    def _draw(self, rng: np.random.Generator) -> tuple[Entry, int]:
        for _ in range(TRIES if self.split is Split.train else 1):
            entry = self.entries[np.searchsorted(self._ends, rng.integers(self._ends[-1]), side="right")]
            start = int(rng.integers(entry.frames - self.frames + 1))
            if not self._silent(entry, start):
                break
        return entry, start

    def _silent(self, entry: Entry, start: int) -> bool:
        """Nothing above SILENCE_PEAK in the target: densities of such crops are steep, and teach next to nothing."""
        return self._peak(entry, start, start + self.frames) < SILENCE_PEAK

    def _headroom(self, entry: Entry, start: int) -> float:
        """The gain that brings the peak of a crop to 1; at least 1."""
        peak = self._peak(entry, max(0, start - self.left_frames), start + self.frames)
        return max(1.0, 1 / peak) if peak else math.inf

    def _peak(self, entry: Entry, begin: int, end: int) -> float:
        """Of the frames from `begin` to `end`."""
        hop = self.corpus.mel.hop_length
        samples = self.corpus.pcm(entry)[begin * hop : end * hop]
        return max(-int(samples.min()), int(samples.max())) / PCM_SCALE * self.corpus.gain


class _Indices(Sampler[int]):
    """first, first + step, first + 2 step, ... without end."""

    def __init__(self, first: int, step: int) -> None:
        self.first, self.step = first, step

    def __iter__(self) -> Iterator[int]:
        return count(self.first, self.step)


def collate(crops: Sequence[Crop]) -> Batch:
    """Stack crops of equal sizes."""
    contours = [crop.f0 for crop in crops if crop.f0 is not None]
    return Batch(
        wav=torch.from_numpy(np.stack([crop.wav for crop in crops])),
        mel=torch.from_numpy(np.stack([crop.mel for crop in crops])),
        speaker=torch.tensor([crop.speaker for crop in crops]),
        left=crops[0].left,
        margin=crops[0].margin,
        f0=torch.from_numpy(np.stack(contours)) if contours else None,
        padding=torch.tensor([crop.padding for crop in crops]),
    )


def loader(
    dataset: CropDataset,
    batch_size: int,
    first_index: int = 0,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
) -> Iterator[Batch]:
    """Batches without end: those of rank r hold the crops first_index + r, first_index + r + world_size, ...

    Step k of all ranks together thus holds the same crops as step k of one process with the whole batch, and a run that
    used `n` crops goes on with first_index = n. Neither the number of workers nor the global random state matters.
    """
    batches: DataLoader[Crop] = DataLoader(
        dataset,
        batch_size,
        sampler=_Indices(first_index + rank, world_size),
        collate_fn=dataset.batch,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,  # a fork beside running threads may hang
        worker_init_fn=_ignore_interrupts,
        generator=torch.Generator(),  # else each start would draw from torch's global generator
    )
    return iter(batches)


def _ignore_interrupts(worker: int) -> None:
    """Ctrl-C reaches the whole group of processes; the trainer wants its batch for the step in progress."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _read_corpus(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(f"{path.parent}: not a prepared corpus (it has no {path.name}); run `wavenet prepare` first")
    try:
        corpus: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        format_ = corpus["format"]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: damaged ({error!r}); run `wavenet prepare` again") from error
    if format_ != FORMAT:
        raise DataError(f"{path}: format {format_!r}, but this program reads {FORMAT}; run its `wavenet prepare` again")
    return corpus
