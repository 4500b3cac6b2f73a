"""`wavenet distill`: a student, from a teacher and a corpus."""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from data.dataset import PreparedCorpus
from data.mel import MelConfig
from distill.fit import initialise_from_teacher, student_config
from distill.objective import DistillationObjective, LossesConfig
from distill.student import Student, StudentSize
from recipes.batches import whole_clips
from recipes.configuration import ConfigError
from recipes.outputs import check_writable
from recipes.runs import RunConfig, run_training
from wavenet.checkpoint import Description
from wavenet.pretrained import load_teacher, mel_config
from wavenet.training.distributed import distributed


@dataclass
class DistillConfig(RunConfig):
    """`configs/distill.yaml`."""

    teacher_checkpoint: str
    student: StudentSize
    losses: LossesConfig


def distill(config: DistillConfig) -> bool:
    """Distil, or go on, in `config.run`; False when a signal ended the run before its last step.

    Raises:
        CheckpointError: no teacher's checkpoint.
        ConfigError: a corpus of another mel, or of other speakers, than the teacher's; crops that are too short.
        OutputError: the run directory cannot be written.
    """
    check_writable(config.run)
    teacher, described = load_teacher(config.teacher_checkpoint)
    corpus = PreparedCorpus(config.data, described.gain)
    mel = mel_config(described, config.teacher_checkpoint)
    _check_corpus(config, corpus, described, mel)
    _check_crops(config, mel)
    if config.losses.kl.floor is None:
        config.losses.kl.floor = corpus.silence_log_scale
    student = student_config(config.student, teacher.config, corpus.scale)
    description = Description(
        kind="student",
        model=asdict(student),
        mel=described.mel,
        gain=described.gain,
        speakers=described.speakers,
        training={
            "data": Path(config.data).name,
            "teacher": {"name": Path(config.teacher_checkpoint).name, "step": described.step},
            "losses": asdict(config.losses),
            "crops": asdict(config.crops),
        },
    )
    with distributed(config.trainer.device) as processes:
        torch.manual_seed(config.trainer.seed)
        model = Student(student)
        initialise_from_teacher(model, teacher)
        reach = model.receptive_field + teacher.receptive_field
        clips = whole_clips(corpus, config.clips)
        objective = DistillationObjective(model, teacher, config.losses, mel, described.gain, clips)
        return run_training(config, objective, corpus, reach, description, processes)


def _check_corpus(config: DistillConfig, corpus: PreparedCorpus, teacher: Description, mel: MelConfig) -> None:
    if corpus.mel != mel:
        raise ConfigError(
            f"{config.data} was prepared with {corpus.mel}, but the teacher in {config.teacher_checkpoint} "
            f"reads {mel}: prepare the corpus with the teacher's mel"
        )
    if teacher.speakers and teacher.speakers != corpus.speakers:
        raise ConfigError(
            f"the teacher in {config.teacher_checkpoint} knows the speakers {', '.join(teacher.speakers)}, but "
            f"{config.data} has {', '.join(corpus.speakers)}: distil on the corpus that the teacher was trained on"
        )


def _check_crops(config: DistillConfig, mel: MelConfig) -> None:
    samples, window = config.crops.frames * mel.hop_length, max(config.losses.power.fft_sizes)
    if config.losses.spectral and samples < window:
        raise ConfigError(
            f"the spectral loss has windows of {window} samples, but a crop of crops.frames={config.crops.frames} has "
            f"{samples}: take longer crops or smaller losses.power.fft_sizes"
        )
