"""`wavenet distill`: a student, from a teacher and the corpus that the teacher was trained on."""

from dataclasses import asdict, dataclass

import torch

from data.dataset import PreparedCorpus
from distill.fit import initialise_from_teacher, student_config
from distill.objective import DistillationObjective
from distill.losses.kl import KLConfig
from distill.losses.power import PowerConfig
from distill.student import Student, StudentSize
from recipes.batches import Crops, CropsConfig, whole_clips
from recipes.configuration import ConfigError
from wavenet.checkpoint import Description
from wavenet.pretrained import load_teacher
from wavenet.training.distributed import distributed
from wavenet.training.optim import OptimConfig
from wavenet.training.trainer import Trainer, TrainerConfig


@dataclass
class LossesConfig:
    """A preset of `configs/losses`."""

    kl: KLConfig
    power: PowerConfig


@dataclass
class DistillConfig:
    """`configs/distill.yaml`."""

    data: str
    teacher: str
    run: str
    student: StudentSize
    losses: LossesConfig
    crops: CropsConfig
    clips: int
    optim: OptimConfig
    trainer: TrainerConfig
