"""A student with pitch: one pass, backwards, piece by piece and in recorded graphs, and what it has of its teacher."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from data.dataset import Batch
from data.mel import MelConfig
from distill.cuda_graph import GraphCache
from distill.fit import check_fit, initialise_from_teacher, student_config
from distill.losses.power import PowerConfig
from distill.objective import DistillationObjective, LossesConfig
from distill.stream import can_stream
from distill.student import Student, StudentConfig, StudentSize
from wavenet.conditioning import MARGIN
from wavenet.distributions import OutputConfig, OutputKind
from wavenet.kernels import use_backend
from wavenet.model import WaveNet, WaveNetConfig
from wavenet.network import StackConfig

HOP = 8


@pytest.fixture
def student() -> Student:
    """Of two flows, one longer than a stage of the compiled kernels, that listen to all they read."""
    sizes = StudentSize(flows=[2, 12], cycle=4, residual=16, gate=32)
    student = Student(StudentConfig(**vars(sizes), n_mels=5, hop_length=HOP, context=16, pitch=True)).eval()
    for flow in student.chain.sequence:
        torch.nn.init.normal_(flow.network.last.weight, std=0.1)
    return student


def mel_like(batch: int, frames: int) -> Tensor:
    return 2.5 * torch.randn(batch, 5, frames) - 5


def test_another_pitch_makes_another_waveform_of_the_same_noise(student: Student) -> None:
    mel, z = mel_like(1, 20), torch.randn(1, 20 * HOP)
    low, high, none = (student(z, mel, excitation=student.excite(mel, torch.full((1, 20), f0))).x
                       for f0 in (0.01, 0.012, 0.0))  # fmt: skip
    assert not torch.allclose(low, high) and not torch.allclose(low, none)


def test_x_depends_on_the_noise_as_without_pitch(student: Student) -> None:
    """dx[t]/dz[u] is 0 for u > t, and exp(log_scale) for u = t."""
    student, mel = student.double(), mel_like(1, 4).double()
    z = torch.randn(4 * HOP, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda row: student(row[None], mel).x[0], z)
    assert not jacobian.triu(1).any()
    torch.testing.assert_close(jacobian.diagonal(), student(z[None], mel).log_scale[0].exp().detach())


def test_inverse_recovers_the_noise(student: Student) -> None:
    student, mel = student.double(), mel_like(2, 3 + 2 * MARGIN).double()
    z = torch.randn(2, 3 * HOP, dtype=torch.float64)
    x = student(z, mel, None, MARGIN).x
    torch.testing.assert_close(student.inverse(x, mel, None, MARGIN), z, rtol=1e-8, atol=1e-8)


def test_the_end_alone_is_the_end_of_the_whole(student: Student) -> None:
    student, mel, z = student.double(), mel_like(1, 60).double(), torch.randn(1, 60 * HOP, dtype=torch.float64)
    excited = student.excite(mel)
    assert excited is not None and student.receptive_field < 40 * HOP
    end, whole = student(z, mel, keep=100, excitation=excited), student(z, mel, excitation=excited)
    torch.testing.assert_close(end.x, whole.x[:, -100:])


@pytest.mark.parametrize("half", [False, True])
def test_states_carried_on_in_c_make_one_pass(student: Student, half: bool) -> None:
    """Of more samples than a chunk holds, so that the phase goes on from one to the next."""
    assert can_stream(student.chain.sequence, torch.zeros(1))
    mel = mel_like(2, 2500)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        x = student.generate(mel)
    z = torch.stack([student.noise(row, 0, 2500 * HOP).float() for row in range(2)])
    with torch.no_grad(), use_backend("reference"):
        whole = student(z, mel).x
    torch.testing.assert_close(x, whole, rtol=0, atol=(3e-2 if half else 1e-5) * float(whole.abs().max()))
    with torch.no_grad(), use_backend("reference"):
        flat = student(z, mel, excitation=torch.zeros(2, 2500 * HOP, 3)).x
    assert (flat - whole).abs().max() > 0.05 * whole.abs().max()


@pytest.mark.parametrize("block", [50, 333, 10_000])
def test_blocks_make_one_pass(student: Student, block: int) -> None:
    student, mel = student.double(), mel_like(2, 100).double()
    whole = student.generate(mel, block=100 * HOP)
    torch.testing.assert_close(student.generate(mel, block=block), whole)


def test_a_recorded_graph_is_told_the_pitch_of_every_utterance(student: Student) -> None:
    student, cache = student.double(), GraphCache(3, lambda: lambda run: (run(), run)[1])
    for frames in (30, 30, 31, 200):  # the second time over what the first left in the tensors
        mel, z = mel_like(1, frames).double(), torch.randn(1, frames * HOP, dtype=torch.float64)
        x = torch.full_like(z, torch.nan)
        cache.generate(
            student.chain, lambda start, stop, z=z: z[:, start:stop],
            lambda start, stop, mel=mel: student.conditioner.window(mel, None, start, stop),
            x, HOP, student.receptive_field, 500, student._excitation(mel),
        )  # fmt: skip
        torch.testing.assert_close(x, student.generate(mel, noise=z))
    assert len(cache) == 3


# Teacher and student


@pytest.fixture
def teacher(mel_config: MelConfig) -> WaveNet:
    stack = StackConfig(layers=3, cycle=3, kernel=3, residual=8, gate=16, skip=8)
    output = OutputConfig(kind=OutputKind.mol, mixtures=2)
    teacher = WaveNet(WaveNetConfig(stack, 6, output, mel_config.n_mels, mel_config.hop_length, pitch=True))
    torch.nn.init.normal_(teacher.network.last.weight, std=0.3)
    return teacher


def small(teacher: WaveNet) -> StudentConfig:
    return student_config(StudentSize(flows=[3, 2], cycle=2, kernel=3, residual=8, gate=16), teacher.config)


def test_a_student_hears_with_its_teachers_ear_and_does_not_train_it(teacher: WaveNet) -> None:
    student, mel = Student(small(teacher)), mel_like(1, 12)
    assert student.pitch is not None and teacher.pitch is not None
    initialise_from_teacher(student, teacher)
    assert torch.equal(student.pitch.f0(mel), teacher.pitch.f0(mel))
    assert not any(weight.requires_grad for weight in student.pitch.parameters())
    assert student.chain.sequence[0].network.first.weight.requires_grad


def test_a_student_without_the_teachers_pitch_is_refused(teacher: WaveNet) -> None:
    with pytest.raises(ValueError, match="the student's pitch is False, the teacher's True"):
        check_fit(replace(small(teacher), pitch=False), teacher.config)
    with pytest.raises(ValueError, match="pitch is true, but is heard in a mel and n_mels is 0"):
        replace(small(teacher), n_mels=0)


def test_both_read_the_measured_pitch_in_step(teacher: WaveNet, batch: Batch, mel_config: MelConfig) -> None:
    """The teacher hears a part of the window: of the same phase as the student's there."""
    student, losses = Student(small(teacher)), LossesConfig(power=PowerConfig([64], high_edge=1000.0))
    objective = DistillationObjective(student, teacher, losses, mel_config, 1.6, [])
    f0 = torch.full((2, batch.mel.shape[2]), 150 / mel_config.sample_rate)
    angle = 2 * torch.pi * (0.4 + f0[:, :1] * torch.arange(batch.wav.shape[1]))
    read: dict[str, Tensor] = {}

    def note(name: str) -> Callable[..., None]:
        return lambda module, inputs: read.update({name: inputs[3]})

    student.chain.sequence[-1].network.register_forward_pre_hook(note("student"))
    teacher.network.register_forward_pre_hook(note("teacher"))
    objective(replace(batch, f0=f0, wav=0.1 * angle.cos()), 0)
    ours, theirs = read["student"], read["teacher"]
    assert theirs.shape[1] < batch.wav.shape[1]
    assert torch.equal(ours[:, -theirs.shape[1] :], theirs)
    assert theirs[..., 2].all()  # what was measured, not what the untrained head hears
    spoken = angle[:, -theirs.shape[1] :]  # what was recorded, not a phase that begins with the window
    torch.testing.assert_close(theirs[..., :2], torch.stack([spoken.sin(), spoken.cos()], dim=-1), atol=0.2, rtol=0)
