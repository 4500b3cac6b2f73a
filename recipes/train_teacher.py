"""`wavenet train`: a teacher, from a prepared corpus."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from data.dataset import PreparedCorpus
from data.mel import MelConfig
from recipes.batches import CropsConfig, whole_clips
from recipes.configuration import ConfigError
from recipes.outputs import check_writable
from recipes.runs import RunConfig, check_origin, check_pitch, origin_facts, run_training
from serve.voices import find_checkpoint
from wavenet.checkpoint import Description, load_description, load_into, load_weights
from wavenet.distributions import OutputConfig
from wavenet.fine_tuning import begin_from
from wavenet.model import WaveNet, WaveNetConfig
from wavenet.network import StackConfig
from wavenet.objective import TeacherObjective
from wavenet.pitch import LOOK_BACK, PitchHead
from wavenet.pitch_objective import PitchObjective
from wavenet.training.distributed import Distributed, distributed
from wavenet.training.optim import OptimConfig, ScheduleKind
from wavenet.training.trainer import Precision

MOST_HEARING_STEPS = 4000


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
class HearingConfig:
    """How the pitch head learns to hear F0 in the mel, before the network learns anything.

    Args:
        steps: None for the trainer's, `MOST_HEARING_STEPS` at most.
        batch_size: crops a step.
        frames: of a crop, at most: it is no longer than the shortest utterance, but no shorter than `crops.frames`.
        lr: Adam's rate at first, falling to a fiftieth.
    """

    steps: int | None = None
    batch_size: int = 16
    frames: int = 128
    lr: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "frames"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"hearing.{name} is {value}, but must be at least 1")


@dataclass
class TrainConfig(RunConfig):
    """`configs/train.yaml`."""

    hearing: HearingConfig
    teacher: NetworkConfig
    output: OutputConfig
    mel: MelConfig
    condition: ConditionConfig
    input_dropout: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.input_dropout < 1:
            raise ValueError(f"input_dropout is {self.input_dropout}, but must be from 0 to below 1; 0.5 is usual")


def train(config: TrainConfig) -> bool:
    """Train, or go on training, in `config.run`; False when a signal ended the run before its last step.

    Raises:
        CheckpointError: `init_from` names no teacher of these settings.
        ConfigError: the corpus was prepared with another mel, without F0, or has too few or other speakers.
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
            **({"hearing": asdict(config.hearing)} if model_config.pitch else {}),
        },
    )
    with distributed(config.trainer.device) as processes:
        torch.manual_seed(config.trainer.seed)
        clips = whole_clips(corpus, config.clips)
        model = WaveNet(model_config)
        if config.init_from is not None:
            begin_from(model, model_config, config.init_from, "teacher")
        if model.pitch is not None and not _learn_to_hear(config, model.pitch, corpus, description, processes):
            return False
        objective = TeacherObjective(model, corpus.gain, config.mel.sample_rate, clips, config.input_dropout)
        return run_training(config, objective, corpus, model_config.stack.receptive_field, description, processes)


def _learn_to_hear(
    config: TrainConfig, head: PitchHead, corpus: PreparedCorpus, teacher: Description, processes: Distributed
) -> bool:
    """Trains the head, in `pitch` of the run directory, or takes the one that is there; False as `train`."""
    run, hearing = Path(config.run) / "pitch", config.hearing
    steps = min(config.trainer.steps, MOST_HEARING_STEPS) if hearing.steps is None else hearing.steps
    trainer = replace(
        config.trainer,
        run=str(run),
        steps=steps,
        batch_size=hearing.batch_size,
        dtype=Precision.float32,
        ema_decay=0.99,
        validate_every=-(-steps // 4),
        audition_every=0,
    )
    shortest = min((entry.frames for split in ("train", "valid") for entry in corpus.entries(split)), default=0)
    frames = max(config.crops.frames, min(hearing.frames, shortest))
    own = replace(
        config,
        crops=CropsConfig(frames=frames, random_gain_db=config.crops.random_gain_db, left_frames=LOOK_BACK),
        optim=OptimConfig(lr=hearing.lr, schedule=ScheduleKind.cosine, final_lr_ratio=0.02),
        trainer=trainer,
    )
    learner = PitchHead(config.mel.n_mels)
    learner.load_state_dict(head.state_dict())
    description = replace(teacher, kind="pitch", model={"n_mels": config.mel.n_mels})
    objective = PitchObjective(learner, config.mel.hop_length)
    if not run_training(own, objective, corpus, 0, description, processes):
        return False
    processes.barrier()  # the checkpoint is written
    load_into(head, load_weights(run))
    return True


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
