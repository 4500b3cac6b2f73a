"""What `wavenet evaluate` judges on: a split of a prepared corpus, or a plain folder of sound files."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from data.audio import Wave, from_pcm, resample, to_pcm
from data.corpora import CorpusConfig, CorpusKind, list_corpus
from data.dataset import PreparedCorpus
from data.manifest import Split
from data.mel import MelConfig, MelError, log_mel
from recipes.configuration import ConfigError

Pcm = NDArray[np.int16]  # (T,)


@dataclass
class Clip:
    """A recording, and what a vocoder is given of it."""

    id: str
    speaker: str
    pcm: Pcm  # (L hop,)
    mel: NDArray[np.float32]  # (M, L)
    f0: NDArray[np.float32] | None = None  # (L,) as `data.dataset.Batch`; None where it was not measured

    @property
    def wav(self) -> Wave:
        """(L hop,) in [-1, 1)"""
        return from_pcm(self.pcm)


def choose_split(data: Path, split: str | None) -> str | None:
    """The split to judge on: of a prepared corpus `test` unless another is named, of a plain folder None.

    Raises:
        ConfigError: a split of a plain folder.
    """
    if (data / "corpus.json").exists():
        return split or Split.test.value
    if split is not None:
        raise ConfigError(f"{data} is not a prepared corpus, so it has no split {split!r}: leave --split out")
    return None


def read_clips(data: Path, split: str | None, mel: MelConfig, limit: int | None, seconds: float | None) -> list[Clip]:
    """The first clips of `data`, in the order of their ids.

    Args:
        data: a prepared corpus, or a folder of sound files, all below it or those that its metadata.csv names.
        split: of `choose_split`.
        mel: what to take of a sound, and what a corpus must have been prepared with.
        limit: clips at most.
        seconds: of audio at most, but always one clip.

    Raises:
        ConfigError: nothing to judge on, or a corpus of another mel.
        AudioError, MelError: a sound file that cannot be read, or is shorter than a frame.
    """
    found = _of_corpus(PreparedCorpus(data), split, mel) if split else _of_folder(data, mel)
    clips: list[Clip] = []
    total = 0.0
    for clip in islice(found, limit):
        total += len(clip.pcm) / mel.sample_rate
        if clips and seconds is not None and total > seconds:
            break
        clips.append(clip)
    return clips


def _of_corpus(corpus: PreparedCorpus, split: str, mel: MelConfig) -> Iterator[Clip]:
    if corpus.mel != mel:
        raise ConfigError(
            f"the checkpoints read {mel}, but {corpus.folder} was prepared with {corpus.mel}: prepare the corpus with "
            "that mel, or give the folder of its sound files"
        )
    entries = corpus.entries(split)
    if not entries:
        raise ConfigError(f"{corpus.folder} has no utterance in split {split!r}: choose another split")
    for entry in entries:
        speaker, pcm = corpus.speakers[entry.speaker], np.array(corpus.pcm(entry))
        yield Clip(entry.id, speaker, pcm, corpus.mel_of(entry), corpus.f0_of(entry))


def _of_folder(folder: Path, mel: MelConfig) -> Iterator[Clip]:
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder: give a prepared corpus, or a folder of sound files")
    utterances, skipped = list_corpus(CorpusConfig(CorpusKind.folder, str(folder)))
    for skip in skipped:
        tqdm.write(f"left out {skip.name}: {skip.reason}", file=sys.stderr)
    if not utterances:
        raise ConfigError(f"{folder} is not a prepared corpus and holds no sound files: give one or the other")
    for utterance in utterances:
        wav, rate = utterance.read()
        wav = resample(wav, rate, mel.sample_rate)
        try:
            frames = log_mel(torch.from_numpy(wav), mel).numpy()  # (M, L)
        except MelError as error:
            raise MelError(f"{utterance.path}: {error}") from None
        pcm = to_pcm(wav[: frames.shape[1] * mel.hop_length])
        yield Clip(utterance.id, utterance.speaker, pcm, frames)
