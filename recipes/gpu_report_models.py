"""The student's one pass, the sequential teacher and training steps, on random weights; bfloat16 by autocast."""

import gc
import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import partial
from statistics import median

import torch
from torch import Tensor

from data.dataset import Batch
from distill.objective import DistillationObjective, LossesConfig
from distill.student import Student
from recipes.benchmark.flops import student_flops, teacher_step_flops
from recipes.benchmark.presets import MEL, constant_mel, frames_of, random_student, random_teacher
from recipes.benchmark.rows import measured
from recipes.gpu_report_bench import COMPILED, EAGER, OURS, Bench, Training, matrix
from wavenet.checkpoint import Description
from wavenet.conditioning import MARGIN
from wavenet.kernels import use_backend
from wavenet.metrics import real_time_factor
from wavenet.model import WaveNet
from wavenet.objective import TeacherObjective
from wavenet.sampling.generate import Backend, generate
from wavenet.sampling.reference import History, sample_naively
from wavenet.training.distributed import Distributed
from wavenet.training.objective import Objective
from wavenet.training.optim import OptimConfig
from wavenet.training.trainer import Precision, Trainer, TrainerConfig

STUDENT, TEACHER, TRAINING = "GPU student", "GPU sequential teacher", "GPU training"
UNIT = "samples/s"
DRAWN, GIVEN = "drawn", "given"  # noise: from its seed on the CPU, in the time; or there already
LAUNCHED = "ours, launch by launch"  # without a graph


def student(bench: Bench, preset: str) -> None:
    """Samples a second of all utterances together: mel in, samples out."""
    cases = bench.sizes.students[preset]
    model = random_student(preset, bench.sizes.teacher).to(bench.device)
    first = preset == next(iter(bench.sizes.students))
    with torch.no_grad(), torch.autocast(bench.device.type, torch.bfloat16):
        for batch, seconds in cases:
            _speak(bench, preset, model, batch, seconds, [OURS, LAUNCHED, EAGER])
        if first:  # takes minutes to compile: once, and after all else
            _speak(bench, preset, model, *cases[-1], [COMPILED])


def _speak(bench: Bench, preset: str, model: Student, batch: int, seconds: float, ways: list[str]) -> None:
    mel = constant_mel(batch, frames_of(seconds)).to(bench.device)
    T = mel.shape[2] * MEL.hop_length
    z = model.config.base.draw(torch.empty(batch, T, device=bench.device))
    chain = torch.compile(model.chain, dynamic=False, backend=bench.sizes.compiler)

    def launched() -> Tensor:
        return model.chain(z, model.conditioner(mel, None))[0]

    def eager() -> Tensor:
        with use_backend("reference"):
            return model.generate(mel, noise=z)

    def compiled() -> Tensor:
        with use_backend("reference"):
            return chain(z, model.conditioner(mel, None))[0]

    runs: dict[tuple[str, str], Callable[[], object]] = {
        (OURS, DRAWN): partial(model.generate, mel),
        (OURS, GIVEN): partial(model.generate, mel, noise=z),
        (LAUNCHED, GIVEN): launched,
        (EAGER, GIVEN): eager,
        (COMPILED, GIVEN): compiled,
    }
    utterances, kernels = f"{batch} x {seconds:g} s", "native" if bench.dry else "triton"
    graph = kernels if bench.dry else f"{kernels}, CUDA graph"
    ran = {OURS: graph, LAUNCHED: kernels, EAGER: "reference", COMPILED: bench.sizes.compiler}
    for (way, noise), spent in bench.race({name: run for name, run in runs.items() if name[0] in ways}).items():
        labels = {"preset": preset, "utterances": utterances, "way": way, "noise": noise}
        row = measured(STUDENT, labels, UNIT, [batch * T / one for one in spent], path=ran[way])
        row.limit, row.reached = matrix("bfloat16"), row.value * student_flops(model.config) / 1e12
        row.figures["x real time"] = real_time_factor(batch * T, median(spent), MEL.sample_rate)
        row.figures["ms"] = 1000 * median(spent)
        bench.add([row])


def teacher(bench: Bench) -> None:
    """Samples a second of all utterances together, float32."""
    model = random_teacher(bench.sizes.teacher).to(bench.device)
    for batch, (sampler, samples) in itertools.product(bench.sizes.batches, bench.sizes.samples.items()):
        context = model.receptive_field if sampler == "naive" else 0
        mel = constant_mel(batch, -(-(context + samples) // MEL.hop_length)).to(bench.device)
        cached = partial(generate, model, mel, length=samples, backend=Backend.cached)
        run = partial(_naively, model, mel, samples) if sampler == "naive" else cached
        for seconds in bench.race({f"{sampler}, batch {batch}": run}, repeats=3).values():
            labels = {"preset": bench.sizes.teacher, "sampler": sampler, "batch": batch}
            row = measured(TEACHER, labels, UNIT, [batch * samples / one for one in seconds], path="torch")
            row.figures["x real time"] = real_time_factor(round(row.value), 1.0, MEL.sample_rate)
            bench.add([row])


def _naively(model: WaveNet, mel: Tensor, samples: int) -> Tensor:
    """After a receptive field of silence, for the first samples of an utterance cost less than all others."""
    history = History(mel.new_zeros(len(mel), model.receptive_field))
    noise = torch.full((len(mel), samples, model.distribution.n_noise), 0.5, device=mel.device)
    with torch.no_grad():
        return sample_naively(model, model.conditioner(mel, None), noise, history)


def training(bench: Bench, case: Training) -> None:
    """Samples a second that the loss counts, by the real trainer, from a batch in memory to the optimiser's step.

    Memory is that of one way alone; then both are there, and take turns.
    """
    peaks: dict[str, float] = {}
    for way in (OURS, EAGER):
        step, _ = _stepper(bench, case, way)
        if bench.attempt(f"{case.task}, {way}", step):
            peaks[way] = _peak(bench, step)
        del step  # a trainer and its model refer to each other
        gc.collect()
    steppers = {way: _stepper(bench, case, way) for way in peaks}
    runs: dict[str, Callable[[], object]] = {way: step for way, (step, _) in steppers.items()}
    counted = case.batch * case.frames * MEL.hop_length
    for way, seconds in bench.race(runs).items():
        labels = {"task": case.task, "batch": case.batch, "way": way}
        ran = ("native" if bench.dry else "triton") if way == OURS else "reference"
        row = measured(TRAINING, labels, UNIT, [counted / one for one in seconds], path=ran)
        row.figures["ms a step"] = 1000 * median(seconds)
        if flops := steppers[way][1]:
            row.limit, row.reached = matrix("bfloat16"), row.value * flops / 1e12
        if not bench.dry:
            row.figures["memory (GB)"] = peaks[way]
        bench.add([row])


def _stepper(bench: Bench, case: Training, way: str) -> tuple[Callable[[], object], int]:
    """A step of training on weights of its own, and FLOP a counted sample as `_objective` tells them."""
    objective, left, flops = _objective(case)
    return partial(_step, _trainer(bench, objective, _batch(case, left), case.batch), way), flops


def _step(trainer: Trainer, way: str) -> None:
    backend: AbstractContextManager[None] = use_backend("reference") if way == EAGER else nullcontext()
    trainer.config.steps = trainer.step + 1
    with backend:
        if not trainer.run():
            raise KeyboardInterrupt


def _peak(bench: Bench, step: Callable[[], object]) -> float:
    """GB at most, of a step and of all that lies in memory meanwhile."""
    if bench.dry:
        return 0.0
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated() / 1e9


def _objective(case: Training) -> tuple[Objective, int, int]:
    """What is trained, the frames of context before a crop, and FLOP a counted sample, 0 where context costs some."""
    model = random_teacher(case.teacher)
    if not case.student:
        flops = teacher_step_flops(model.config, model.distribution.n_params)
        return TeacherObjective(model, 1.0, MEL.sample_rate, clips=[]), 0, flops
    pupil = random_student(case.student, case.teacher)
    left = -(-(pupil.receptive_field + model.receptive_field) // MEL.hop_length)
    return DistillationObjective(pupil, model, LossesConfig(), MEL, 1.0, clips=[]), left, 0


def _batch(case: Training, left: int) -> Batch:
    torch.manual_seed(0)
    frames = left + case.frames
    wav = 0.05 * torch.randn(case.batch, frames * MEL.hop_length)
    mel = constant_mel(case.batch, frames + 2 * MARGIN)
    return Batch(wav, mel, torch.zeros(case.batch, dtype=torch.long), left * MEL.hop_length, MARGIN)


def _trainer(bench: Bench, objective: Objective, batch: Batch, size: int) -> Trainer:
    """One that writes nothing, for it is not the main process."""
    config = TrainerConfig(
        run="none", steps=1, batch_size=size, device=bench.sizes.device, dtype=Precision.bfloat16,
        validate_every=0, audition_every=0, workers=0,
    )  # fmt: skip
    batch = batch.to(bench.device)

    def batches(first_step: int) -> Iterator[Batch]:
        return itertools.repeat(batch)

    model = objective.model
    assert isinstance(model, WaveNet | Student)
    kind = "teacher" if isinstance(model, WaveNet) else "student"
    description = Description(kind=kind, model=asdict(model.config), mel=asdict(MEL), gain=1.0)
    process = Distributed(rank=1, world_size=1, device=bench.device)
    return Trainer(config, OptimConfig(), objective, batches, [], description, process)
