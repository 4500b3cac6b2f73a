"""The teacher, one sample at a time: preset x backend x weights x batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch

from recipes.benchmark.presets import MEL, constant_mel, random_teacher
from recipes.benchmark.rows import Row, copy_limit, measured
from recipes.benchmark.timing import race
from wavenet.metrics import real_time_factor
from wavenet.model import WaveNet
from wavenet.sampling.generate import Backend, generate
from wavenet.sampling.packing import Weights

GROUP = "teacher"


class Case(NamedTuple):
    """One contestant: T samples of each utterance of a batch."""

    backend: Backend
    weights: Weights
    batch: int
    samples: int


@dataclass(frozen=True)
class Sizes:
    compiled: dict[str, int]  # preset -> samples of an utterance
    slow: dict[Backend, int]
    batches: tuple[int, ...]
    repeats: int


FULL = Sizes(
    compiled={"small": 16384, "base": 4096}, slow={Backend.naive: 20, Backend.cached: 200}, batches=(1, 8), repeats=3
)
QUICK = Sizes(compiled={"tiny": 8}, slow={Backend.naive: 1, Backend.cached: 2}, batches=(1, 2), repeats=1)


def teacher(preset: str, threads: int, quick: bool) -> list[Row]:
    """Samples a second of all utterances together, the packing of the weights included.

    What bounds a matrix-vector product is reading its matrix, once for all utterances of a batch of up to eight: that
    rate is held against the copy's, which counts reading and writing and runs beyond the caches.
    """
    sizes = QUICK if quick else FULL
    model = random_teacher(preset)
    cases = [Case(backend, Weights.exact, 1, few) for backend, few in sizes.slow.items()]
    cases += [
        Case(Backend.numba, weights, batch, sizes.compiled[preset]) for weights in Weights for batch in sizes.batches
    ]
    contestants: dict[Case, Callable[[], object]] = {case: partial(_sample, model, case) for case in cases}
    rows = []
    for case, seconds in race(contestants, sizes.repeats, least=0.0).items():
        rates = [case.batch * case.samples / one for one in seconds]
        dtype = "bfloat16" if case.weights is Weights.bfloat16 else "float32"
        labels = {"preset": preset, "backend": case.backend, "weights": dtype, "batch": case.batch}
        row = measured(GROUP, labels, "samples/s", rates)
        row.figures["x real time"] = real_time_factor(round(row.value), 1.0, MEL.sample_rate)
        if case.backend is Backend.numba:
            read = _matrix_bytes(model, case.weights)
            row.limit, row.reached = copy_limit(threads), row.value / case.batch * read / 1e9
            row.figures["GB/s of weights"] = row.reached
        rows.append(row)
    return rows


def _sample(model: WaveNet, case: Case) -> None:
    mel = constant_mel(case.batch, -(-case.samples // MEL.hop_length))
    generate(model, mel, length=case.samples, backend=case.backend, weights=case.weights)


def _matrix_bytes(model: WaveNet, weights: Weights) -> int:
    """Of the matrices that a sample's computation reads; the last one stays float32."""
    network = model.network
    matrices = [network.hidden.weight]
    for block in network.blocks:
        matrices += [block.conv.weight, block.out.weight]
    itemsize = (torch.bfloat16 if weights is Weights.bfloat16 else torch.float32).itemsize
    return itemsize * sum(matrix.numel() for matrix in matrices) + network.last.weight.nbytes


def presets(quick: bool) -> Sequence[str]:
    return list((QUICK if quick else FULL).compiled)
