"""`wavenet train`: a teacher, from a prepared corpus."""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from data.dataset import PreparedCorpus
from data.mel import MelConfig
from recipes.batches import whole_clips
from recipes.configuration import ConfigError
from recipes.hearing import HearingConfig, learn_to_hear
from recipes.outputs import check_writable
from recipes.runs import RunConfig, check_origin, check_pitch, origin_facts, run_training
from serve.voices import find_checkpoint
from wavenet.checkpoint import Description, load_description
from wavenet.distributions import OutputConfig
from wavenet.fine_tuning import begin_from
from wavenet.model import WaveNet, WaveNetConfig
from wavenet.network import StackConfig
from wavenet.objective import TeacherObjective
from wavenet.training.distributed import distributed


@dataclass
class NetworkConfig:
    """A preset of `configs/teacher`."""

    stack: StackConfig = field(default_factory=StackConfig)
    context: int = 128


@dataclass
class ConditionConfig:
    """What the teacher is told: the mel, its pitch, and the speaker (None: where the corpus has several)."""

    mel: bool = True
    pitch: bool = False
    speaker: bool | None = None


@dataclass
class TrainConfig(RunConfig):
    """`configs/train.yaml`."""

    hearing: HearingConfig
    teacher: NetworkConfig
    output: OutputConfig
    mel: MelConfig
    condition: ConditionConfig
    input_dropout: float
    input_noise: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.input_dropout < 1:
            raise ValueError(f"input_dropout is {self.input_dropout}, but must be from 0 to below 1; 0.5 is usual")
        if not 0 <= self.input_noise < math.inf:
            raise ValueError(f"input_noise is {self.input_noise}, but must be 0 or more; 0.1 is 20 dB below the clip")


def train(config: TrainConfig) -> bool:
    """Train, or go on training, in `config.run`; False when a signal ended the run before its last step.

    Raises:
        CheckpointError: `init_from` names no teacher of these settings.
        ConfigError: the corpus was prepared with another mel, without F0, or has too few or other speakers; or no steps
            for a pitch head that has yet to learn.
        OutputError: the run directory cannot be written.
    """
    check_writable(config.run)
    if config.init_from is not None:
        config.init_from = str(find_checkpoint(config.init_from))
    origin = None if config.init_from is None else load_description(config.init_from, "teacher")
    corpus = PreparedCorpus(config.data, None if origin is None else origin.gain)
    if corpus.mel != config.mel:
        raise ConfigError(
            f"{config.data} was prepared with {corpus.mel}, but the teacher is to read {config.mel}: "
            "choose that mel (mel=22k, mel=24k or mel=16k), or prepare the corpus again"
        )
    model_config = teacher_config(config, len(corpus.speakers))
    check_pitch(model_config.pitch, corpus)
    if model_config.pitch and config.hearing.steps == 0 and not (origin and origin.model.get("pitch")):
        raise ConfigError(
            "hearing.steps is 0, which keeps the pitch head of init_from, but "
            + (f"{config.init_from} has none" if origin else "there is no init_from")
            + ": let the head learn, hearing.steps=null"
        )
    if origin is not None and config.init_from is not None:
        check_origin(origin, config.init_from, config.mel, corpus)
    description = Description(
        kind="teacher",
        model=asdict(model_config),
        mel=asdict(config.mel),
        gain=corpus.gain,
        speakers=list(corpus.speakers) if model_config.n_speakers else [],
        training={
            "data": Path(config.data).name,
            "crops": asdict(config.crops),
            **origin_facts(origin, config),
            "input_dropout": config.input_dropout,
            "input_noise": config.input_noise,
            "hearing": asdict(config.hearing) if model_config.pitch else None,
        },
    )
    with distributed(config.trainer.device) as processes:
        torch.manual_seed(config.trainer.seed)
        clips = whole_clips(corpus, config.clips)
        model = WaveNet(model_config)
        if config.init_from is not None:
            begin_from(model, model_config, config.init_from, "teacher")
        if model.pitch is not None and not learn_to_hear(model.pitch, config, config.hearing, corpus, processes):
            return False
        objective = TeacherObjective(
            model, corpus.gain, config.mel.sample_rate, clips, config.input_dropout, config.input_noise
        )
        return run_training(config, objective, corpus, model_config.stack.receptive_field, description, processes)


def teacher_config(config: TrainConfig, n_speakers: int) -> WaveNetConfig:
    """The preset, fitted to its output, its mel and the corpus' speakers.

    Raises:
        ConfigError: a speaker is to be told, and there is only one.
    """
    speak_as = n_speakers > 1 if config.condition.speaker is None else config.condition.speaker
    if speak_as and n_speakers == 1:
        raise ConfigError("condition.speaker is true, but the corpus has one speaker: leave it at null")
    return WaveNetConfig(
        stack=config.teacher.stack,
        context=config.teacher.context,
        output=config.output,
        n_mels=config.mel.n_mels if config.condition.mel else 0,
        hop_length=config.mel.hop_length,
        n_speakers=n_speakers if speak_as else 0,
        pitch=config.condition.pitch,
    )
