"""A wider model begins as the narrower one: the same numbers, and new channels that learn."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from distill.student import Student, StudentConfig
from wavenet.model import WaveNet, WaveNetConfig
from wavenet.network import StackConfig
from wavenet.widening import widened

STACK = StackConfig(layers=3, cycle=2, kernel=3, residual=4, gate=6, skip=5)
TEACHER = WaveNetConfig(stack=STACK, context=7, n_mels=3, hop_length=8, pitch=True)
STUDENT = StudentConfig(flows=[3, 2], cycle=2, residual=4, gate=6, context=7, n_mels=3, hop_length=8, pitch=True)


def speak(model: nn.Module) -> Tensor:
    """What a model makes of one fixed input."""
    torch.manual_seed(1)
    x, mel = torch.randn(2, 80, dtype=torch.float64), torch.randn(2, 3, 10, dtype=torch.float64)
    f0 = torch.rand(2, 10, dtype=torch.float64) * 200
    excitation = model.excite(mel, f0)
    if isinstance(model, Student):
        sample = model(x, mel, excitation=excitation)
        return torch.stack([sample.x, sample.log_scale], dim=-1)
    return model(x, mel, excitation=excitation)


@pytest.mark.parametrize("more", [{"residual": 9}, {"gate": 10}, {"skip": 6}, {"residual": 5, "gate": 8, "skip": 11}])
def test_a_wider_teacher_computes_what_the_narrow_one_did(more: dict[str, int]) -> None:
    assert_same(WaveNet(TEACHER), WaveNet(replace(TEACHER, stack=replace(STACK, **more))))


@pytest.mark.parametrize("more", [{"residual": 9}, {"gate": 10}, {"residual": 5, "gate": 8}])
def test_a_wider_student_computes_what_the_narrow_one_did(more: dict[str, int]) -> None:
    assert_same(Student(STUDENT), Student(replace(STUDENT, **more)))


def assert_same(narrow: nn.Module, wide: nn.Module) -> None:
    narrow, wide = narrow.double(), wide.double()
    for name, weight in narrow.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(weight, std=0.1)  # or those of the gates would all be zero in both
    wide.load_state_dict(widened(wide, narrow))
    expected, heard = speak(narrow), speak(wide)
    assert expected.std() > 1e-3
    torch.testing.assert_close(heard, expected, rtol=1e-12, atol=1e-12)

    heard.square().sum().backward()
    unread = [weight.grad[weight == 0] for weight in wide.parameters() if weight.dim() == 2 and weight.grad is not None]
    assert torch.cat(unread).any()  # what reads the new channels learns
