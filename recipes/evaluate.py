"""`wavenet evaluate`: how near is the audio, how likely is the real thing, on clips that training never saw."""

import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from data.atomic import write_atomic
from data.audio import Wave, from_pcm, to_pcm
from data.mel import MelConfig
from distill.correction import ROUNDS, MelCorrection
from recipes.configuration import ConfigError
from recipes.evaluate_clips import Clip, Pcm, choose_split, read_clips
from recipes.evaluate_measures import Figures, Row, judge, report, summarise
from recipes.evaluate_page import Shown, write_page
from recipes.outputs import check_writable
from recipes.pictures import draw_spectrograms
from recipes.provenance import provenance, write_results
from serve import Vocoder
from serve.voices import find_checkpoint
from wavenet.checkpoint import Description, load_description
from wavenet.conditioning import speaker_index
from wavenet.device import find_device
from wavenet.metrics import griffin_lim, noise_with_envelope, real_time_factor
from wavenet.model import WaveNet
from wavenet.pretrained import load_teacher, mel_config
from wavenet.sampling.generate import Backend, generate
from wavenet.world import resynthesise

LIBRARIES = ("pesq", "pystoi", "pkg_resources", "pyworld")  # pyworld asks for pkg_resources, of setuptools below 81
SHOWN = 8  # clips with players and pictures
ORIGINAL = "original"
CORRECTED = ", corrected"  # of a baseline, by the correction that students have: what it does of itself
UNCORRECTED = ", uncorrected"  # of a student
BASELINES: dict[str, Callable[[Clip, MelConfig, int], Wave]] = {
    "griffin-lim": lambda clip, mel, seed: griffin_lim(clip.mel, mel, seed=seed),
    "world": lambda clip, mel, seed: resynthesise(clip.wav, mel.sample_rate),
    "noise with the right envelope": lambda clip, mel, seed: noise_with_envelope(clip.wav, mel, seed=seed),
}


@dataclass
class Options:
    """The flags of `wavenet evaluate`."""

    checkpoints: list[Path]
    data: Path
    out: Path
    split: str | None = None  # of a prepared corpus: train, valid, or test by default
    clips: int | None = None  # at most, for every row
    seconds: float | None = None  # of audio at most, for every row
    sample: bool = True  # let teachers speak, one sample at a time
    device: str = "auto"
    dtype: str = "float32"  # of a student's matrix products
    seed: int = 0
    rounds: int = ROUNDS  # of the correction; 0: without it
    workers: int | None = None  # processes that measure; None: one per core, 0: this one
    baselines: bool = True


@dataclass
class Voice:
    """What a checkpoint said of every clip, and how long it took; bits of every clip by a teacher."""

    name: str
    kind: str
    said: list[Pcm] = field(default_factory=list)
    seconds: float = 0.0
    bits: list[float] = field(default_factory=list)


@dataclass
class Judged:
    """A clip by the original, the baselines and all voices."""

    said: dict[str, Pcm]
    figures: dict[str, Figures]
    seconds: dict[str, float]  # that the baselines took


def evaluate(options: Options) -> list[Row]:
    """Compare checkpoints with each other, with the original and with baselines, on the same clips.

    What is judged is 16-bit audio, exactly what a file or the page holds. Writes evaluation.json, evaluation.md,
    evaluation.html, and spectrograms/ID.png of the first clips.

    Raises:
        CheckpointError: a checkpoint is missing or damaged.
        ConfigError: checkpoints of different mels, a corpus of another mel or of unknown speakers, or no clips; or a
            library for the measures is not installed.
        OutputError: `out` cannot be written.
    """
    _check_libraries()
    check_writable(options.out)
    split = choose_split(options.data, options.split)
    options = replace(options, device=str(find_device(options.device)), split=split)
    descriptions = {checkpoint: load_description(find_checkpoint(checkpoint)) for checkpoint in options.checkpoints}
    mel = _common_mel(descriptions)
    _check_names(options.checkpoints)
    clips = read_clips(options.data, options.split, mel, options.clips, options.seconds)
    for checkpoint, description in descriptions.items():
        _check_speakers(checkpoint, description, clips)
    voices = [
        voice
        for checkpoint, description in descriptions.items()
        for voice in (_students if description.kind == "student" else _teacher)(checkpoint, clips, options)
    ]
    gain = max(description.gain for description in descriptions.values())  # a clip is silent if it is so to every model
    judged = _judge_all(clips, voices, mel, gain, options)
    rows = _rows(clips, voices, judged, mel, options.seed)
    _write(rows, clips, judged, mel, options)
    return rows


def _students(checkpoint: Path, clips: list[Clip], options: Options) -> list[Voice]:
    """The student as it speaks, and, where that is something else, without the correction."""
    said = [_student(checkpoint, clips, options, options.rounds, str(checkpoint))]
    return [*said, _student(checkpoint, clips, options, 0, f"{checkpoint}{UNCORRECTED}")] if options.rounds else said


def _student(checkpoint: Path, clips: list[Clip], options: Options, rounds: int, name: str) -> Voice:
    vocoder = Vocoder.from_pretrained(checkpoint, device=options.device, dtype=options.dtype, rounds=rounds)

    def speak(clip: Clip) -> Wave:
        return vocoder(clip.mel, seed=options.seed, speaker=clip.speaker if vocoder.speakers else None)

    return _spoken(Voice(name, "student"), clips, speak)


def _teacher(checkpoint: Path, clips: list[Clip], options: Options) -> list[Voice]:
    model, description = load_teacher(find_checkpoint(checkpoint))
    model = model.to(options.device)
    voice = Voice(str(checkpoint), "teacher")
    for clip in tqdm(clips, desc=f"{checkpoint}: bits", unit="clip", leave=False):
        voice.bits.append(_bits(model, description, clip))

    def speak(clip: Clip) -> Wave:
        mel, speaker = torch.from_numpy(clip.mel)[None], _speaker(description, clip)
        x = generate(model, mel, speaker, seed=options.seed, backend=Backend.numba)
        return (x[0] / description.gain).float().cpu().numpy()

    return [_spoken(voice, clips, speak) if options.sample else voice]


def _spoken(voice: Voice, clips: list[Clip], speak: Callable[[Clip], Wave]) -> Voice:
    speak(replace(clips[0], mel=clips[0].mel[:, :4]))  # what is compiled on first use takes none of the time
    for clip in tqdm(clips, desc=voice.name, unit="clip", leave=False):
        started = time.perf_counter()
        wav = speak(clip)
        voice.seconds += time.perf_counter() - started
        if not np.isfinite(wav).all():
            raise RuntimeError(f"{voice.name} says {clip.id} with NaN or infinity: leave it out, it cannot be judged")
        voice.said.append(to_pcm(wav))
    return voice


@torch.inference_mode()
def _bits(model: WaveNet, description: Description, clip: Clip) -> float:
    """Mean over the clip of the bits that a 16-bit sample costs, given the ones before it, and, where the corpus has
    them, F0 and its phase, as in training.
    """
    device = model.network.first.weight.device
    wav = torch.from_numpy(clip.wav * np.float32(description.gain))[None].to(device)  # (1, T)
    mel = torch.from_numpy(clip.mel)[None].to(device) if model.config.n_mels else None
    speaker = _speaker(description, clip)
    x = model.distribution.quantise(wav)
    f0 = None if clip.f0 is None else torch.from_numpy(clip.f0)[None].to(device)
    params = model(
        x, mel, None if speaker is None else speaker.to(device), excitation=model.excite(mel, f0, recording=x)
    )
    return float(model.distribution.bits(params, x, description.gain).double().mean())


def _speaker(description: Description, clip: Clip) -> torch.Tensor | None:
    return speaker_index(clip.speaker if description.speakers else None, description.speakers)


def _judge_all(clips: list[Clip], voices: list[Voice], mel: MelConfig, gain: float, options: Options) -> list[Judged]:
    said = [{voice.name: voice.said[n] for voice in voices if voice.said} for n in range(len(clips))]
    work = partial(_judge_clip, mel=mel, gain=gain, options=options)
    bar = partial(tqdm, total=len(clips), desc="judge", unit="clip")
    workers = min(os.cpu_count() or 1 if options.workers is None else options.workers, len(clips))
    if workers == 0:
        return list(bar(map(work, clips, said)))
    spawn = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads in an unknown state
    with ProcessPoolExecutor(workers, spawn, torch.set_num_threads, (1,)) as pool:
        try:
            return list(bar(pool.map(work, clips, said)))
        except BrokenProcessPool as error:
            raise RuntimeError("a process that measures was killed (out of memory?): try fewer --workers") from error


def _judge_clip(clip: Clip, said: dict[str, Pcm], mel: MelConfig, gain: float, options: Options) -> Judged:
    judged = Judged({ORIGINAL: clip.pcm}, {}, {})
    if options.baselines:
        _say_baselines(judged, clip, mel, options)
    judged.said |= said
    for name, pcm in judged.said.items():
        judged.figures[name] = judge(clip, from_pcm(pcm), mel, gain)
    return judged


def _say_baselines(judged: Judged, clip: Clip, mel: MelConfig, options: Options) -> None:
    griffin_lim(clip.mel[:, :4], mel, iterations=1)  # loads its library, which takes none of the time
    correction = MelCorrection(mel, options.rounds)
    for name, say in BASELINES.items():
        started = time.perf_counter()
        wav = say(clip, mel, options.seed)
        judged.seconds[name] = time.perf_counter() - started
        judged.said[name] = to_pcm(wav)
        if options.rounds:
            judged.said[f"{name}{CORRECTED}"] = to_pcm(_correct(correction, wav, clip.mel))


def _correct(correction: MelCorrection, wav: Wave, mel: NDArray[np.float32]) -> Wave:
    with torch.inference_mode():
        return correction(torch.from_numpy(wav)[None], torch.from_numpy(mel)[None])[0].numpy()


def _rows(clips: list[Clip], voices: list[Voice], judged: list[Judged], mel: MelConfig, seed: int) -> list[Row]:
    samples = sum(len(clip.pcm) for clip in clips)

    def speed(seconds: float) -> float | None:
        return real_time_factor(samples, seconds, mel.sample_rate) if seconds else None

    rows = [summarise(ORIGINAL, "original", [one.figures[ORIGINAL] for one in judged], None, seed)]
    for name in (name for name in judged[0].said if name.removesuffix(CORRECTED) in BASELINES):
        seconds = sum(one.seconds.get(name, 0.0) for one in judged)
        rows.append(summarise(name, "baseline", [one.figures[name] for one in judged], speed(seconds), seed))
    for voice in voices:
        for n, bits in enumerate(voice.bits):
            judged[n].figures.setdefault(voice.name, Figures({}, {})).values["bits"] = bits
        figures = [one.figures[voice.name] for one in judged]
        rows.append(summarise(voice.name, voice.kind, figures, speed(voice.seconds), seed))
    return rows


def _write(rows: list[Row], clips: list[Clip], judged: list[Judged], mel: MelConfig, options: Options) -> None:
    rate, out = mel.sample_rate, options.out
    data = {"split": options.split, "utterances": len(clips), "seconds": sum(len(clip.pcm) for clip in clips) / rate}
    results: dict[str, Any] = {
        "data": data,
        "rows": [asdict(row) for row in rows],
        "clips": [
            {"id": clip.id, "figures": {name: asdict(figures) for name, figures in one.figures.items()}}
            for clip, one in zip(clips, judged, strict=True)
        ],
    }
    write_results(out / "evaluation.json", options.device, results)
    write_atomic(out / "evaluation.md", (report(rows) + "\n").encode())
    shown = [Shown(clip.id, one.said, one.figures) for clip, one in list(zip(clips, judged, strict=True))[:SHOWN]]
    for one in shown:
        wavs = {name: from_pcm(pcm) for name, pcm in one.said.items()}
        draw_spectrograms(out / "spectrograms" / f"{one.id}.png", wavs, rate)
    write_page(out / "evaluation.html", rows, shown, rate, data, provenance(options.device))


def _check_libraries() -> None:
    absent = [name for name in LIBRARIES if find_spec(name) is None]
    if absent:
        raise ConfigError(
            f"wavenet evaluate needs {', '.join(absent)}, not installed here: pip install 'parallel-wavenet[eval]', or "
            "pip install --editable '.[eval]' in a checkout"
        )


def _check_names(checkpoints: list[Path]) -> None:
    taken = {ORIGINAL, *BASELINES, *(f"{name}{CORRECTED}" for name in BASELINES)}
    for name in map(str, checkpoints):
        own = {name, f"{name}{UNCORRECTED}"}
        if own & taken:
            raise ConfigError(f"two rows would be called {name!r}: give each checkpoint once, and by a name of its own")
        taken |= own


def _common_mel(descriptions: dict[Path, Description]) -> MelConfig:
    mels = {checkpoint: mel_config(description, checkpoint) for checkpoint, description in descriptions.items()}
    first = next(iter(mels))
    for checkpoint, mel in mels.items():
        if mel != mels[first]:
            raise ConfigError(
                f"{first} reads {mels[first]}, but {checkpoint} reads {mel}: they cannot be given the "
                "same; judge them apart"
            )
    return mels[first]


def _check_speakers(checkpoint: Path, description: Description, clips: list[Clip]) -> None:
    for clip in clips:
        if description.speakers and clip.speaker not in description.speakers:
            raise ConfigError(
                f"{checkpoint} knows the speakers {', '.join(description.speakers)}, but {clip.id} is spoken by "
                f"{clip.speaker}: judge it on its own speakers"
            )
