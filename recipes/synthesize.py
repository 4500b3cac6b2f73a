"""`wavenet synthesize`: one wav per input, by a student in one pass, or by its teacher sample by sample."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from data.audio import AudioError, read_audio, resample, write_wav
from data.mel import MelConfig, MelError, load_mel, log_mel
from distill.correction import ROUNDS
from recipes.inputs import InputError, Source, find_sources
from recipes.outputs import check_writable
from recipes.pictures import draw_mels
from serve import Vocoder
from serve.voices import find_checkpoint
from wavenet.conditioning import speaker_index
from wavenet.device import find_device
from wavenet.metrics import real_time_factor
from wavenet.pretrained import load_teacher, mel_config
from wavenet.sampling.generate import Backend, generate

Mel = NDArray[np.float32]
Speak = Callable[[Mel], NDArray[np.float32]]  # log-mel (M, L) -> waveform (L hop,)
Distance = Callable[[Mel], float | None]  # see `Vocoder.distance`


@dataclass
class Options:
    """The flags of `wavenet synthesize`."""

    inputs: list[Path]
    checkpoint: Path
    out: Path
    device: str = "auto"
    dtype: str = "float32"
    seed: int = 0
    temperature: float = 1.0
    speaker: str | None = None
    sequential: Backend | None = None  # sample a teacher, by this backend
    rounds: int = ROUNDS  # of a student's correction
    plot: bool = False


@dataclass
class Summary:
    """What was done: files written, samples and seconds of computing, and what was refused and why."""

    written: list[Path]
    refused: list[str]
    samples: int
    seconds: float
    sample_rate: int

    def __str__(self) -> str:
        audio = self.samples / self.sample_rate
        speed = real_time_factor(self.samples, self.seconds, self.sample_rate) if self.samples else 0.0
        return f"{len(self.written)} files, {audio:.1f} s of audio, {speed:.2f} x real time"


def synthesize(options: Options) -> Summary:
    """Speak every input. A bad file is refused by name; the others are still written.

    Raises:
        CheckpointError, InputError, OutputError, ValueError: nothing can be spoken at all.
    """
    check_writable(options.out)
    sources = find_sources(options.inputs)
    targets = [options.out / f"{source.path.stem}.wav" for source in sources]
    _spare_inputs(sources, targets)
    mel, speak, distance = sampler(options)
    summary = Summary([], [], 0, 0.0, mel.sample_rate)
    for source, path in tqdm(list(zip(sources, targets, strict=True)), desc="synthesize", unit="file"):
        try:
            given = read_mel(source, mel)
        except (AudioError, MelError, OSError) as error:
            summary.refused.append(str(error))
            tqdm.write(f"refused: {error}", file=sys.stderr)
            continue
        far = distance(given)
        if far is not None and far > 1:
            tqdm.write(
                f"{source.path}: far from the speech that the voice was trained on, {far:.1f} times the limit; "
                "it speaks as well as it can",
                file=sys.stderr,
            )
        started = time.perf_counter()
        wav = speak(given)
        summary.seconds += time.perf_counter() - started
        summary.samples += len(wav)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_wav(path, wav, mel.sample_rate)
        summary.written.append(path)
        if options.plot:
            spoken = log_mel(torch.from_numpy(wav), mel).numpy()
            draw_mels(path.with_suffix(".png"), {f"{source.path.name}: given": given, "spoken": spoken}, mel)
    return summary


def sampler(options: Options) -> tuple[MelConfig, Speak, Distance]:
    """The mel that the checkpoint reads, the function that speaks one, and how far one is from what it knows."""
    if options.sequential is not None:
        return *_teacher(options, options.sequential), lambda mel: None
    vocoder = Vocoder.from_pretrained(
        options.checkpoint, device=options.device, dtype=options.dtype, rounds=options.rounds
    )
    speaker_index(options.speaker, vocoder.speakers)  # refuses an unknown name before there is anything to lose

    def speak(mel: Mel) -> NDArray[np.float32]:
        pieces = vocoder.stream([mel], seed=options.seed, temperature=options.temperature, speaker=options.speaker)
        return np.concatenate(list(pieces))

    return vocoder.mel, speak, vocoder.distance


def _teacher(options: Options, backend: Backend) -> tuple[MelConfig, Speak]:
    if options.temperature != 1 or options.dtype != "float32" or options.rounds != ROUNDS:
        raise InputError("--temperature, --dtype and --rounds are for students: leave them out for a teacher")
    checkpoint = find_checkpoint(options.checkpoint)
    model, description = load_teacher(checkpoint)
    device = find_device("cpu" if backend is Backend.numba else options.device)
    model = model.to(device)
    speaker = speaker_index(options.speaker, description.speakers)

    def speak(mel: Mel) -> NDArray[np.float32]:
        frames = torch.from_numpy(mel)[None].to(device)  # (1, M, L)
        x = generate(model, frames, speaker, seed=options.seed, backend=backend, progress=True)  # (1, T)
        return (x[0] / description.gain).float().cpu().numpy()

    return mel_config(description, checkpoint), speak


def read_mel(source: Source, config: MelConfig) -> Mel:
    """The mel (M, L) of a file: as stored, or taken from a sound, which is resampled where it must be.

    Raises:
        AudioError, MelError: an unreadable file, or one with another mel.
    """
    if source.is_mel:
        return load_mel(source.path, config)
    wav, rate = read_audio(source.path)
    try:
        mel = log_mel(torch.from_numpy(resample(wav, rate, config.sample_rate)), config).numpy()
    except (AudioError, MelError) as error:
        raise type(error)(f"{source.path}: {error}") from None
    if rate != config.sample_rate:
        tqdm.write(f"{source.path}: resampled from {rate} to {config.sample_rate} Hz", file=sys.stderr)
    return mel


def _spare_inputs(sources: list[Source], targets: list[Path]) -> None:
    """Raises InputError where an answer would replace what it answers."""
    for source, target in zip(sources, targets, strict=True):
        if target.exists() and target.samefile(source.path):
            raise InputError(f"{target} would be overwritten by its own synthesis: name another folder with --out")
