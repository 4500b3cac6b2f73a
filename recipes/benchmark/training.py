"""Training steps, from the loader to the optimiser, by the real trainer on crops of synthetic sound."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from data.audio import write_wav
from data.corpora import CorpusConfig, CorpusKind
from data.dataset import PreparedCorpus
from data.prepare import PrepareConfig, prepare
from distill.objective import DistillationObjective
from distill.student import Student
from recipes.batches import Crops, CropsConfig
from recipes.benchmark.flops import distillation_step_flops, teacher_step_flops
from recipes.benchmark.presets import MEL, random_student, random_teacher
from recipes.benchmark.rows import Row, matrix_limit, measured
from recipes.benchmark.shares import shares
from recipes.benchmark.timing import race
from recipes.configuration import configure
from recipes.distill_student import DistillConfig
from wavenet.checkpoint import Description
from wavenet.model import WaveNet
from wavenet.objective import TeacherObjective
from wavenet.training.distributed import Distributed
from wavenet.training.objective import Objective
from wavenet.training.optim import OptimConfig
from wavenet.training.trainer import Precision, Trainer, TrainerConfig

GROUP = "training"


class Case(NamedTuple):
    dtype: Precision
    batch: int  # crops
    frames: int  # of a crop, in the loss


@dataclass(frozen=True)
class Sizes:
    teacher: str  # presets
    student: str
    frames: int  # in the loss, of a repetition: a multiple of every batch's
    cases: dict[str, list[Case]]
    repeats: int


FULL = Sizes(
    teacher="small",
    student="small",
    frames=256,
    cases={
        "teacher": [Case(dtype, batch, 32) for dtype in (Precision.bfloat16, Precision.float32) for batch in (1, 2, 4)],
        "distillation": [
            *(Case(Precision.bfloat16, batch, frames) for batch, frames in ((1, 32), (2, 32), (1, 128), (1, 256))),
            Case(Precision.float32, 1, 32),
        ],
    },
    repeats=4,
)
QUICK = Sizes(
    teacher="tiny",
    student="tiny",
    frames=8,
    cases={name: [Case(Precision.bfloat16, 1, 8)] for name in FULL.cases},
    repeats=1,
)


def training(task: str, threads: int, quick: bool) -> list[Row]:
    """Samples a second that the loss counts; FLOP of matrix products as in `flops`, those of the context included.

    teacher: likelihood, without context. distillation: a student of a frozen teacher that judges once, under the true
    mel (100 draws, 10 components), in the whole context of both networks, which weighs the less the longer a crop is.
    """
    sizes = QUICK if quick else FULL
    name = sizes.teacher if task == "teacher" else f"{sizes.student} from {sizes.teacher}"
    with synthetic_corpus() as corpus:
        trainers, flops = {}, {}
        for case in sizes.cases[task]:
            objective, left, flops[case] = _objective(task, sizes, case.frames * MEL.hop_length)
            trainers[case] = _trainer(objective, corpus, CropsConfig(frames=case.frames, left_frames=left), case)
        runs: dict[Case, Callable[[], object]] = {
            case: partial(_advance, trainer, sizes.frames // (case.batch * case.frames))
            for case, trainer in trainers.items()
        }
        rows, counted = [], sizes.frames * MEL.hop_length
        for case, seconds in race(runs, sizes.repeats, least=0.0).items():
            samples = case.frames * MEL.hop_length
            labels = {"task": f"{task}, {name}", "dtype": case.dtype, "batch": f"{case.batch} x {samples}"}
            row = measured(GROUP, labels, "samples/s", [counted / one for one in seconds])
            row.limit = matrix_limit(case.dtype, threads)
            row.reached = row.value * flops[case] / samples / 1e9
            rows.append(row)
        first, trainer = next(iter(trainers.items()))
        what = f"{task} step, {first.dtype}, {first.batch} x {first.frames} frames"
        return rows + shares(what, partial(_advance, trainer, 1))


@contextmanager
def synthetic_corpus() -> Iterator[PreparedCorpus]:
    """Twenty clips of a buzz in noise, prepared as any corpus; gone at the end."""
    folder, rng = Path(tempfile.mkdtemp()), np.random.default_rng(0)
    try:
        for n in range(20):
            buzz = np.sign(np.sin(np.arange(4 * MEL.sample_rate) * rng.uniform(0.03, 0.06)))
            wav = 0.1 * buzz + 0.02 * rng.standard_normal(len(buzz))
            write_wav(folder / f"{n}.wav", wav.astype(np.float32), MEL.sample_rate)
        source = CorpusConfig(kind=CorpusKind.folder, root=str(folder))
        prepare(PrepareConfig(source, MEL, str(folder / "prepared"), valid=0.2, test=0.2, workers=0))
        yield PreparedCorpus(folder / "prepared")
    finally:
        shutil.rmtree(folder)


def _objective(task: str, sizes: Sizes, counted: int) -> tuple[Objective, int, int]:
    """What is trained, the frames of context before a crop, and FLOP a crop of so many counted samples."""
    teacher = random_teacher(sizes.teacher)
    outputs = teacher.distribution.n_params
    if task == "teacher":
        objective: Objective = TeacherObjective(teacher, 1.0, MEL.sample_rate, clips=[])
        return objective, 0, counted * teacher_step_flops(teacher.config, outputs)
    student = random_student(sizes.student, sizes.teacher)
    overrides = [f"student={sizes.student}", "data=none", "teacher_checkpoint=none", "losses.contrastive.weight=0"]
    losses = configure("distill", overrides, DistillConfig).losses
    left = _frames_in(student.receptive_field + teacher.receptive_field)
    heard = _frames_in(teacher.receptive_field)
    samples = (counted, heard * MEL.hop_length, left * MEL.hop_length)
    flops = distillation_step_flops(student.config, teacher.config, outputs, *samples)
    return DistillationObjective(student, teacher, losses, MEL, 1.0, clips=[]), left, flops


def _frames_in(samples: int) -> int:
    """Whole frames that hold so many samples."""
    return -(-samples // MEL.hop_length)


def _trainer(objective: Objective, corpus: PreparedCorpus, crops: CropsConfig, case: Case) -> Trainer:
    """One that writes nothing, for it is not the main process."""
    config = TrainerConfig(
        run="none", steps=1, batch_size=case.batch, device="cpu", dtype=case.dtype, validate_every=0, audition_every=0,
        workers=0,
    )  # fmt: skip
    process = Distributed(rank=1, world_size=1, device=torch.device("cpu"))
    batches = Crops(corpus, crops, reach=0, trainer=config).training(process)
    model = objective.model
    assert isinstance(model, WaveNet | Student)
    kind = "teacher" if isinstance(model, WaveNet) else "student"
    description = Description(kind=kind, model=asdict(model.config), mel=asdict(MEL), gain=1.0)
    return Trainer(config, OptimConfig(), objective, batches, [], description, process)


def _advance(trainer: Trainer, steps: int) -> None:
    trainer.config.steps = trainer.step + steps
    if not trainer.run():
        raise KeyboardInterrupt
