"""Networks of the presets by name, with random weights: speed depends on sizes alone."""

import torch
from torch import Tensor

from data.mel import MelConfig
from distill.fit import student_config
from distill.student import Student
from recipes.configuration import configure
from recipes.distill_student import DistillConfig
from recipes.train_teacher import TrainConfig, teacher_config
from wavenet.kernels import Backend, native
from wavenet.model import WaveNet

MEL = MelConfig()  # 22.05 kHz, 80 bands, hop 256
LEVEL = -5.0  # of the mel, nats


def random_teacher(preset: str) -> WaveNet:
    """Mixture of logistics, 10 components, of one speaker."""
    torch.manual_seed(0)
    config = configure("train", [f"teacher={preset}", "output=mol", "data=none"], TrainConfig)
    return WaveNet(teacher_config(config, n_speakers=1)).eval()


def random_student(preset: str, teacher: str = "small") -> Student:
    """A student of such a teacher."""
    torch.manual_seed(0)
    config = configure("distill", [f"student={preset}", "data=none", "teacher_checkpoint=none"], DistillConfig)
    return Student(student_config(config.student, random_teacher(teacher).config)).eval()


def backends() -> list[Backend]:
    """Those that there are on this CPU."""
    return [Backend.reference] if native.library() is None else [Backend.reference, Backend.native]


def frames_of(seconds: float) -> int:
    return max(1, round(seconds * MEL.sample_rate / MEL.hop_length))


def constant_mel(batch: int, frames: int) -> Tensor:
    """(B, M, L)"""
    return torch.full((batch, MEL.n_mels, frames), LEVEL)
