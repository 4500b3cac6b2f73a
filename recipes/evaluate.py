"""`wavenet evaluate`: how near is the audio, how likely is the real thing, on clips that training never saw."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from data.dataset import PreparedCorpus
from data.manifest import Entry
from data.mel import log_mel
from recipes.configuration import ConfigError
from recipes.outputs import check_writable
from recipes.provenance import table, write_results
from serve import Vocoder
from wavenet.checkpoint import Description, load_description
from wavenet.device import find_device
from wavenet.metrics import griffin_lim, log_mel_distance, noise_with_envelope, real_time_factor
from wavenet.pretrained import load_teacher, mel_config
from wavenet.sampling.generate import Backend, generate

Wave = NDArray[np.float32]
Speak = Callable[[Entry], Wave]  # an utterance said again from its mel


@dataclass
class Row:
    """One line of the table; None where a figure does not apply."""

    name: str
    log_mel_l1: float | None = None  # nats, mean over utterances
    bits: float | None = None  # per 16-bit sample
    real_time_factor: float | None = None


def evaluate(
    checkpoints: list[Path], data: Path, out: Path, split: str, limit: int | None, sample: bool, device: str, seed: int
) -> list[Row]:
    """Compare checkpoints with each other and with two baselines made from the same mels.

    Args:
        checkpoints: students (log-mel distance of their audio) and teachers (bits per sample; with `sample` their
            audio too).
        data: prepared corpus.
        out: folder for evaluation.json.
        split: train, valid or test.
        limit: utterances at most.
        sample: let teachers speak, one sample at a time.

    Raises:
        CheckpointError: a checkpoint is missing or damaged.
        ConfigError: a checkpoint of another mel, or of other speakers, than the corpus', or an empty split.
        OutputError: `out` cannot be written.
    """
    check_writable(out)
    device = str(find_device(device))
    corpus = PreparedCorpus(data)
    entries = corpus.entries(split)[:limit]
    if not entries:
        raise ConfigError(f"{data} has no utterance in split {split!r}: choose another split")
    descriptions = [load_description(checkpoint) for checkpoint in checkpoints]
    for checkpoint, description in zip(checkpoints, descriptions, strict=True):
        _check_corpus(checkpoint, description, corpus)
    rows = [
        _spoken("griffin-lim", corpus, entries, lambda e: griffin_lim(corpus.mel_of(e), corpus.mel, seed=seed)),
        _spoken("noise with the right envelope", corpus, entries, lambda e: _noise(corpus, e, seed)),
    ]
    for checkpoint, description in zip(checkpoints, descriptions, strict=True):
        if description.kind == "student":
            rows.append(_student(checkpoint, corpus, entries, device, seed))
        else:
            rows.append(_teacher(checkpoint, corpus, entries, sample, device, seed))
    clips = {
        "split": split,
        "utterances": len(entries),
        "seconds": sum(e.samples for e in entries) / corpus.mel.sample_rate,
    }
    write_results(out / "evaluation.json", device, {"data": clips, "rows": [vars(row) for row in rows]})
    return rows


def report(rows: list[Row]) -> str:
    """The rows as a table."""

    def cell(value: float | None, digits: int = 3) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    header = ["", "log-mel L1 (nats)", "bits per 16-bit sample", "x real time"]
    return table([header, *([r.name, cell(r.log_mel_l1), cell(r.bits, 2), cell(r.real_time_factor, 2)] for r in rows)])


def _spoken(name: str, corpus: PreparedCorpus, entries: list[Entry], speak: Speak) -> Row:
    distances, samples, seconds = [], 0, 0.0
    for entry in tqdm(entries, desc=name, unit="clip", leave=False):
        started = time.perf_counter()
        wav = speak(entry)
        seconds += time.perf_counter() - started
        samples += len(wav)
        distances.append(log_mel_distance(log_mel(torch.from_numpy(wav), corpus.mel).numpy(), corpus.mel_of(entry)))
    return Row(
        name, float(np.mean(distances)), real_time_factor=real_time_factor(samples, seconds, corpus.mel.sample_rate)
    )


def _student(checkpoint: Path, corpus: PreparedCorpus, entries: list[Entry], device: str, seed: int) -> Row:
    vocoder = Vocoder.from_pretrained(checkpoint, device=device)
    voices = vocoder.speakers

    def speak(entry: Entry) -> Wave:
        return vocoder(corpus.mel_of(entry), seed=seed, speaker=voices[entry.speaker] if voices else None)

    return _spoken(str(checkpoint), corpus, entries, speak)


@torch.inference_mode()
def _teacher(
    checkpoint: Path, corpus: PreparedCorpus, entries: list[Entry], sample: bool, device: str, seed: int
) -> Row:
    model, description = load_teacher(checkpoint)
    model = model.to(device)

    def speak(entry: Entry) -> Wave:
        batch = corpus.whole(entry)
        x = generate(model, batch.mel, batch.speaker, seed=seed, backend=Backend.numba)
        return (x[0] / description.gain).float().cpu().numpy()

    row = _spoken(str(checkpoint), corpus, entries, speak) if sample else Row(str(checkpoint))
    leveled = PreparedCorpus(corpus.folder, description.gain)
    total = count = 0.0
    for entry in tqdm(entries, desc=f"{checkpoint}: bits", unit="clip", leave=False):
        batch = leveled.whole(entry).to(device)
        x = model.distribution.quantise(batch.wav)
        params = model(x, batch.mel if model.config.n_mels else None, batch.speaker)
        total += float(model.distribution.bits(params, x, description.gain).double().sum())
        count += x.numel()
    row.bits = total / count
    return row


def _noise(corpus: PreparedCorpus, entry: Entry, seed: int) -> Wave:
    return noise_with_envelope(corpus.wav(entry) / corpus.gain, corpus.mel, seed=seed)


def _check_corpus(checkpoint: Path, description: Description, corpus: PreparedCorpus) -> None:
    mel = mel_config(description, checkpoint)
    if mel != corpus.mel:
        raise ConfigError(
            f"{checkpoint} reads {mel}, but {corpus.folder} was prepared with {corpus.mel}: "
            "prepare the corpus with that mel"
        )
    if description.speakers and description.speakers != corpus.speakers:
        raise ConfigError(
            f"{checkpoint} knows the speakers {', '.join(description.speakers)}, but {corpus.folder} has "
            f"{', '.join(corpus.speakers)}: judge it on a corpus of its own speakers"
        )
