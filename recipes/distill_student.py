"""`wavenet distill`: a student, from a teacher and a corpus."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from data.bands import Bands, measure_bands
from data.dataset import PreparedCorpus
from data.mel import MelConfig
from distill.classifier import load_classifier_for
from distill.fit import base_for, hear_as_teacher, initialise_from_teacher, student_config
from distill.losses.perceptual import PerceptualConfig, PerceptualLoss
from distill.objective import DistillationObjective, LossesConfig
from distill.student import Student, StudentConfig, StudentSize
from recipes.batches import whole_clips
from recipes.configuration import ConfigError
from recipes.outputs import check_writable
from recipes.runs import RunConfig, check_origin, check_pitch, origin_facts, run_training
from serve.voices import find_checkpoint
from wavenet.checkpoint import Description, load_description
from wavenet.fine_tuning import begin_from
from wavenet.pretrained import config_from, load_teacher, mel_config
from wavenet.training.distributed import distributed

BAND_CLIPS = 500  # utterances that say what a corpus sounds like


@dataclass
class DistillConfig(RunConfig):
    """`configs/distill.yaml`."""

    teacher_checkpoint: str
    student: StudentSize
    losses: LossesConfig


def distill(config: DistillConfig) -> bool:
    """Distil, or go on, in `config.run`; False when a signal ended the run before its last step.

    Raises:
        CheckpointError: no teacher's checkpoint; `init_from` names no student of these settings; a classifier of other
            speech.
        ConfigError: a corpus of another mel, or of other speakers, than the teacher's, or without F0; crops that are
            too short.
        OutputError: the run directory cannot be written.
    """
    check_writable(config.run)
    config.teacher_checkpoint = str(find_checkpoint(config.teacher_checkpoint))
    if config.init_from is not None:
        config.init_from = str(find_checkpoint(config.init_from))
    teacher, described = load_teacher(config.teacher_checkpoint)
    corpus = PreparedCorpus(config.data, described.gain)
    mel = mel_config(described, config.teacher_checkpoint)
    _check_corpus(config, corpus, described, mel)
    _check_crops(config, mel)
    check_pitch(teacher.config.pitch, corpus)
    origin = None if config.init_from is None else load_description(config.init_from, "student")
    base = base_for(teacher.config.output.kind)
    scale = base.as_logistic(corpus.scale)
    if origin is not None and config.init_from is not None:
        check_origin(origin, config.init_from, mel, corpus)
        scale = config_from(StudentConfig, origin.model, config.init_from).initial_scale
    if config.losses.kl.floor is None:
        config.losses.kl.floor = math.log(base.as_logistic(math.exp(corpus.silence_log_scale)))
    student = student_config(config.student, teacher.config, scale)
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
            **origin_facts(origin, config),
        },
        bands=asdict(corpus_bands(corpus)),
    )
    with distributed(config.trainer.device) as processes:
        torch.manual_seed(config.trainer.seed)
        model = Student(student)
        if config.init_from is None:
            initialise_from_teacher(model, teacher)
        else:
            begin_from(model, student, config.init_from, "student")
            hear_as_teacher(model, teacher)
        reach = model.receptive_field + teacher.receptive_field
        clips = whole_clips(corpus, config.clips)
        ear = _load_ear(config.losses.perceptual, mel, described.gain)
        objective = DistillationObjective(model, teacher, config.losses, mel, described.gain, clips, ear)
        return run_training(config, objective, corpus, reach, description, processes)


def corpus_bands(corpus: PreparedCorpus) -> Bands:
    """Of the training split, or, where that is large, of every n-th utterance of it."""
    entries = corpus.entries("train")
    return measure_bands(map(corpus.mel_of, entries[:: -(-len(entries) // BAND_CLIPS)]))


def _load_ear(config: PerceptualConfig, mel: MelConfig, gain: float) -> PerceptualLoss | None:
    """What hears the student, whose waveform is `gain` times the file's."""
    if not config.weight:
        return None
    classifier, own_gain = load_classifier_for(config.classifier, mel)
    return PerceptualLoss(classifier, own_gain / gain)


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
    if config.losses.power.counts and samples < window:
        raise ConfigError(
            f"the spectral loss has windows of {window} samples, but a crop of crops.frames={config.crops.frames} has "
            f"{samples}: take longer crops or smaller losses.power.fft_sizes"
        )
