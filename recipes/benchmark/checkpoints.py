"""How fast a teacher and its student speak, on mels of one corpus, in one run.

Every sampler runs in a process of its own, so that its peak memory is its own. Speed does not depend on the values of
the mel, so the mel is a constant.
"""

import math
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from data.mel import MelConfig
from recipes.benchmark.timing import peak_memory
from recipes.configuration import ConfigError
from recipes.outputs import check_writable
from recipes.pictures import draw_speeds
from recipes.provenance import table, write_results
from serve import Vocoder
from serve.voices import find_checkpoint
from wavenet.checkpoint import load_description
from wavenet.device import find_device
from wavenet.metrics import real_time_factor
from wavenet.model import WaveNet
from wavenet.pretrained import load_teacher, mel_config
from wavenet.sampling.generate import Backend, generate
from wavenet.sampling.reference import History, sample_naively

LEVEL = -5.0  # of the mel, nats
TEACHER_SAMPLES = {Backend.naive: 100, Backend.cached: 2_000}  # more would only take longer; the others make `seconds`


@dataclass
class Speed:
    """One sampler's figures.

    Args:
        samples: made in one repetition.
        samples_per_second: median over the repetitions, mel in, samples out.
        peak_memory_mb: of the whole process, weights and libraries included.
    """

    name: str
    samples: int
    samples_per_second: float
    real_time_factor: float
    peak_memory_mb: float


def benchmark(
    teacher: Path,
    student: Path,
    out: Path,
    seconds: float = 2.0,
    repeats: int = 3,
    device: str = "auto",
    dtype: str = "float32",
) -> list[Speed]:
    """Time every sampler; write benchmark.json and benchmark.png to `out`.

    Raises:
        CheckpointError: a checkpoint is missing or of the wrong kind.
        ConfigError: the two read different mels, or `seconds` holds no frame.
        OutputError: `out` cannot be written.
    """
    check_writable(out)
    device = str(find_device(device))
    teacher, student = find_checkpoint(teacher), find_checkpoint(student)
    mel = mel_config(load_description(teacher, "teacher"), teacher)
    other = mel_config(load_description(student, "student"), student)
    if mel != other:
        raise ConfigError(f"{teacher} reads {mel}, {student} reads {other}: compare a student with its own teacher")
    if not mel.hop_length <= seconds * mel.sample_rate < math.inf:
        raise ConfigError(f"--seconds is {seconds}: ask for a frame of audio or more, {mel.hop_length} samples")
    frames = round(seconds * mel.sample_rate / mel.hop_length)
    jobs: list[Callable[[], Speed]] = [
        *(partial(_time_teacher, teacher, backend, frames, repeats, device) for backend in Backend),
        partial(_time_student, student, frames, repeats, device, dtype),
    ]
    speeds = []
    for job in tqdm(jobs, desc="benchmark", unit="sampler"):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            speeds.append(process.submit(job).result())
    write_results(
        out / "benchmark.json",
        device,
        {
            "samplers": [vars(speed) for speed in speeds],
            "student_over_teacher": _ratios(speeds),
            "sample_rate": mel.sample_rate,
            "models": {"teacher": str(teacher), "student": str(student)},
        },
    )
    draw_speeds(out / "benchmark.png", {s.name: s.samples_per_second for s in speeds}, mel.sample_rate)
    return speeds


def report(speeds: list[Speed]) -> str:
    """The figures as a table, with the student's lead over each sampler of the teacher."""
    ratios = _ratios(speeds)
    rows = [["sampler", "samples/s", "x real time", "peak memory (MB)", "student is faster by"]]
    for s in speeds:
        lead = f"{ratios[s.name]:,.1f} x" if s.name in ratios else ""
        rows.append(
            [s.name, f"{s.samples_per_second:,.0f}", f"{s.real_time_factor:.3f}", f"{s.peak_memory_mb:,.0f}", lead]
        )
    return table(rows)


def _ratios(speeds: list[Speed]) -> dict[str, float]:
    *teachers, student = speeds
    return {s.name: student.samples_per_second / s.samples_per_second for s in teachers}


def _time_teacher(checkpoint: Path, backend: Backend, frames: int, repeats: int, device: str) -> Speed:
    model, description = load_teacher(checkpoint)
    model = model.to(device)
    config = mel_config(description, checkpoint)
    mel = _mel(config, frames).to(device) if model.config.n_mels else None
    speaker = torch.zeros(1, dtype=torch.long, device=device) if model.config.n_speakers else None
    length = min(frames * config.hop_length, TEACHER_SAMPLES.get(backend, frames * config.hop_length))

    def run() -> int:
        if backend is Backend.naive:
            return _sample_naively(model, mel, speaker, length)
        return generate(model, mel, speaker, length=length, backend=backend).numel()

    return _time(f"teacher, {backend}", run, repeats, config)


@torch.no_grad()
def _sample_naively(model: WaveNet, mel: torch.Tensor | None, speaker: torch.Tensor | None, length: int) -> int:
    """Every sample at its full cost, after a receptive field of silence: the first ones of a clip come cheaper."""
    past = torch.zeros(1, model.receptive_field).to(model.network.first.weight)
    if mel is not None:
        silence = torch.full_like(mel[:, :, :1], LEVEL)
        mel = torch.cat([silence.expand(-1, -1, -(-past.numel() // model.config.hop_length)), mel], dim=-1)
    noise = model.distribution.noise(0, past.numel(), length)[None].to(past.device)
    return sample_naively(model, model.conditioner(mel, speaker), noise, History(past), model.excite(mel)).numel()


def _time_student(checkpoint: Path, frames: int, repeats: int, device: str, dtype: str) -> Speed:
    vocoder = Vocoder.from_pretrained(checkpoint, device=device, dtype=dtype)
    mel = _mel(vocoder.mel, frames)
    speaker = vocoder.speakers[0] if vocoder.speakers else None
    return _time(f"student, one pass, {dtype}", lambda: vocoder(mel, speaker=speaker).numel(), repeats, vocoder.mel)


def _time(name: str, run: Callable[[], int], repeats: int, config: MelConfig) -> Speed:
    run()  # compiles, allocates, warms up
    seconds, samples = [], 0
    for _ in range(repeats):
        started = time.perf_counter()
        samples = run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    rate = samples / statistics.median(seconds)
    return Speed(
        name,
        samples,
        rate,
        real_time_factor(samples, statistics.median(seconds), config.sample_rate),
        peak_memory(),
    )


def _mel(config: MelConfig, frames: int) -> torch.Tensor:
    return torch.full((1, config.n_mels, frames), LEVEL)
