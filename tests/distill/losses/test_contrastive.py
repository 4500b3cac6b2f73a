"""Laws of the contrastive loss."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from data.dataset import Batch
from distill.losses.contrastive import ContrastiveConfig, bounded, other_condition
from distill.losses.kl import kl_divergence
from distill.student import Base
from wavenet.distributions import OutputKind
from wavenet.model import WaveNet

# The bound


@given(kl=st.floats(0, 1e6), bound=st.floats(0.1, 100))
@settings(deadline=None)
def test_what_is_subtracted_is_the_divergence_where_it_is_small_and_never_more_than_the_bound(
    kl: float, bound: float
) -> None:
    value = torch.tensor(kl, dtype=torch.float64, requires_grad=True)
    said = bounded(value, bound)
    (slope,) = torch.autograd.grad(said, value)
    assert 0 <= said.item() <= min(kl, bound) * (1 + 1e-12) + 1e-300  # denormals keep few digits
    assert said.item() >= kl - kl**2 / (2 * bound) - 1e-12
    assert slope.item() == pytest.approx(math.exp(-kl / bound))


def test_the_gain_by_moving_further_from_the_other_condition_vanishes() -> None:
    kl = torch.tensor([1.0, 10.0, 100.0, 1000.0], requires_grad=True)
    bounded(kl, 5.0).sum().backward()
    assert kl.grad is not None
    assert kl.grad[0] > 0.8 and kl.grad[3] == 0


# The other condition


@pytest.fixture
def three(batch: Batch) -> Batch:
    """Clips that share nothing: mel, F0 and speaker of each are its number."""
    number = torch.arange(3.0)
    frames = batch.mel.shape[-1]
    return replace(
        batch,
        wav=number[:, None].expand(3, batch.wav.shape[1]),
        mel=number[:, None, None].expand(3, 5, frames),
        speaker=number.long(),
        f0=number[:, None].expand(3, frames),
    )


def test_every_clip_takes_the_whole_condition_of_one_other_clip(three: Batch) -> None:
    other = other_condition(three)
    assert other.speaker.tolist() == [2, 0, 1]
    assert other.f0 is not None
    for clip, taken in enumerate((2, 0, 1)):
        assert all((each[clip] == taken).all() for each in (other.mel, other.f0, other.wav))


def test_the_alignment_stays(three: Batch) -> None:
    three = replace(three, padding=torch.arange(3))
    other = other_condition(three)
    assert other.padding is three.padding
    assert (other.left, other.margin) == (three.left, three.margin)


def test_a_clip_without_company_takes_its_own_condition_half_a_window_late(batch: Batch) -> None:
    mel = batch.mel[:1]
    frames = mel.shape[-1]
    alone = replace(batch, wav=batch.wav[:1], mel=mel, speaker=torch.tensor([4]), f0=torch.arange(float(frames))[None])
    other = other_condition(alone)
    late = [(frame - frames // 2) % frames for frame in range(frames)]
    assert torch.equal(other.mel, mel[:, :, late])
    assert other.f0 is not None and other.f0[0].tolist() == late
    said, own = (part.unfold(1, 16, 16)[0] for part in (other.wav, alone.wav))  # (L - 2 margin, hop)
    for frame, source in zip(said, late[alone.margin : -alone.margin], strict=True):
        known = alone.margin <= source < frames - alone.margin
        assert torch.equal(frame, own[source - alone.margin] if known else torch.zeros(16))
    assert other.speaker.tolist() == [4]
    assert not torch.allclose(other.mel[..., alone.left // 16 :], mel[..., alone.left // 16 :])


# What it is for


def test_the_loss_grows_as_the_teacher_turns_deaf(make_teacher: Callable[..., WaveNet], batch: Batch) -> None:
    """A student that says what the teacher itself would say under c1 gains by all that c2 would have changed."""
    losses = []
    for hearing in (4.0, 1.0, 0.25, 0.0):
        torch.manual_seed(0)
        teacher = make_teacher(OutputKind.gaussian)
        nn.init.normal_(teacher.network.last.weight, std=0.3)
        with torch.no_grad():
            for block in teacher.network.blocks:
                assert block.condition is not None
                block.condition.weight.mul_(hearing)
            conditions = (batch, other_condition(batch))
            own, other = (teacher(batch.wav, one.mel, one.speaker, one.margin) for one in conditions)
        loc, log_scale = teacher.distribution.components(own)
        first, second = (
            kl_divergence(teacher.distribution, params, loc, log_scale, Base.normal, None).kl for params in (own, other)
        )
        losses.append((first - 0.3 * bounded(second, 5.0)).mean().item())
    assert losses == sorted(losses)
    assert losses[0] < losses[1] < losses[2] < losses[3] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": -0.1}, "contrastive.weight is -0.1"),
        ({"weight": 1.0}, "0.3 is the paper's"),
        ({"bound": 0.0}, "contrastive.bound is 0"),
        ({"bound": math.inf}, "contrastive.bound is inf"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ContrastiveConfig(**changes)
