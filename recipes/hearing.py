"""The first part of `wavenet train condition.pitch=true`: the head that hears F0 in the mel."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from data.dataset import PreparedCorpus
from recipes.batches import CropsConfig
from recipes.runs import RunConfig, run_training
from wavenet.checkpoint import Description, load_into, load_weights
from wavenet.pitch import LOOK_BACK, PitchHead
from wavenet.pitch_objective import PitchObjective
from wavenet.training.distributed import Distributed
from wavenet.training.optim import OptimConfig, ScheduleKind
from wavenet.training.trainer import Precision

MOST_STEPS = 4000  # where none are given


@dataclass
class HearingConfig:
    """How the pitch head learns to hear F0 in the mel, before the network learns anything.

    Args:
        steps: None for the trainer's, `MOST_STEPS` at most; 0 leaves the head of `init_from` as it is.
        batch_size: crops a step.
        frames: of a crop, at most: it is no longer than the shortest utterance, but no shorter than `crops.frames`.
        lr: Adam's rate at first, falling to a fiftieth.
    """

    steps: int | None = None
    batch_size: int = 16
    frames: int = 128
    lr: float = 1e-3

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("batch_size", 1), ("frames", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"hearing.{name} is {value}, but must be at least {least}")


def learn_to_hear(
    head: PitchHead, config: RunConfig, hearing: HearingConfig, corpus: PreparedCorpus, processes: Distributed
) -> bool:
    """Trains the head from what it is, in `pitch` of the teacher's run directory, or goes on; one that is done is read.

    Returns:
        False when a signal ended the run before its last step.
    """
    run = Path(config.run) / "pitch"
    steps = min(config.trainer.steps, MOST_STEPS) if hearing.steps is None else hearing.steps
    if not steps:
        return True
    shortest = min((entry.frames for split in ("train", "valid") for entry in corpus.entries(split)), default=0)
    frames = max(config.crops.frames, min(hearing.frames, shortest))
    own = replace(
        config,
        crops=CropsConfig(frames=frames, random_gain_db=config.crops.random_gain_db, left_frames=LOOK_BACK),
        optim=OptimConfig(lr=hearing.lr, schedule=ScheduleKind.cosine, final_lr_ratio=0.02),
        trainer=replace(
            config.trainer,
            run=str(run),
            steps=steps,
            batch_size=hearing.batch_size,
            dtype=Precision.float32,
            ema_decay=0.99,
            validate_every=-(-steps // 4),
            audition_every=0,
        ),
    )
    description = Description(
        kind="pitch",
        model={"n_mels": corpus.mel.n_mels},
        mel=asdict(corpus.mel),
        gain=corpus.gain,
        speakers=[],
        training={"data": Path(config.data).name, "crops": asdict(own.crops)},
    )
    learner = PitchHead(corpus.mel.n_mels)
    learner.load_state_dict(head.state_dict())
    objective = PitchObjective(learner, corpus.mel.hop_length)
    if not run_training(own, objective, corpus, 0, description, processes):
        return False
    processes.barrier()  # the checkpoint is written
    load_into(head, load_weights(run))
    return True
