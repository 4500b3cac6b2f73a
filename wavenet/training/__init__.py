"""The training loop that both stages share: an `Objective` maps batches to named terms, the `Trainer` does the rest."""

from wavenet.training.distributed import Distributed, distributed
from wavenet.training.objective import Audition, LossReport, Objective
from wavenet.training.optim import OptimConfig
from wavenet.training.trainer import Trainer, TrainerConfig, TrainingDiverged

__all__ = [
    "Audition",
    "Distributed",
    "LossReport",
    "Objective",
    "OptimConfig",
    "Trainer",
    "TrainerConfig",
    "TrainingDiverged",
    "distributed",
]
