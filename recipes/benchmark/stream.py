"""How soon a stream makes sound: its first piece, once the mel is there, and what a further frame costs."""

from functools import partial
from itertools import count

import torch
from torch import Tensor

from recipes.benchmark.presets import LEVEL, MEL, frames_of, random_student
from recipes.benchmark.rows import Row, measured
from recipes.benchmark.timing import seconds_of
from serve import Vocoder

GROUP, UNIT = "stream", "ms"


def stream(preset: str, dtype: str, threads: int, quick: bool) -> list[Row]:
    """Milliseconds of computing; the audio that they are for lasts longer, or the stream falls behind."""
    model, rate = random_student(preset, teacher="tiny" if quick else "small"), MEL.sample_rate
    vocoder = Vocoder(model, MEL, 1.0, [], "cpu", dtype)
    repeats, seeds = (2 if quick else 20), count()

    def first_piece() -> float:
        fresh = vocoder.begin(seed=next(seeds))
        fresh.append(_mel(frames_of(1.0)))
        return seconds_of(partial(next, fresh.pieces()))

    first_piece()  # packs the weights, starts the threads
    first = len(next(vocoder.stream([_mel(frames_of(1.0))])))
    times = {f"first, {first} samples": ([first_piece() for _ in range(repeats)], first)}
    running = vocoder.begin(seed=next(seeds))
    running.push(_mel(1 + vocoder.look_ahead))
    frames = [seconds_of(partial(running.push, _mel(1))) for _ in range(repeats)]
    times[f"a frame, {MEL.hop_length} samples"] = (frames, MEL.hop_length)
    return [
        measured(
            GROUP,
            {"preset": preset, "dtype": dtype, "piece": name},
            UNIT,
            [1000 * one for one in seconds],
            figures={"audio (ms)": 1000 * samples / rate},
        )
        for name, (seconds, samples) in times.items()
    ]


def _mel(frames: int) -> Tensor:
    return torch.full((MEL.n_mels, frames), LEVEL)
