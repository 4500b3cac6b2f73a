"""The learning rate is a pure function of the step; the optimiser is what its config says."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from wavenet.training.optim import OptimConfig, OptimizerKind, ScheduleKind, build_optimizer, learning_rate


@given(
    schedule=st.sampled_from(ScheduleKind),
    lr=st.floats(1e-6, 1.0),
    warmup=st.integers(0, 300),
    total=st.integers(1, 1000),
    step=st.integers(0, 1000),
)
def test_the_rate_is_positive_and_never_above_lr(
    schedule: ScheduleKind, lr: float, warmup: int, total: int, step: int
) -> None:
    config = OptimConfig(lr=lr, warmup_steps=warmup, schedule=schedule, halve_every=100)
    assert 0.0 < learning_rate(config, step, total) <= lr


@given(warmup=st.integers(1, 200), step=st.integers(0, 198))
def test_warm_up_rises_linearly_and_ends_at_lr(warmup: int, step: int) -> None:
    config = OptimConfig(lr=0.5, warmup_steps=warmup)
    assert learning_rate(config, min(step, warmup - 1), 1000) == pytest.approx(
        0.5 * (min(step, warmup - 1) + 1) / warmup
    )
    assert learning_rate(config, warmup - 1, 1000) == 0.5


@given(
    schedule=st.sampled_from(ScheduleKind),
    warmup=st.integers(0, 100),
    total=st.integers(2, 1000),
    step=st.integers(0, 999),
)
def test_after_warm_up_the_rate_never_rises(schedule: ScheduleKind, warmup: int, total: int, step: int) -> None:
    config = OptimConfig(warmup_steps=warmup, schedule=schedule, halve_every=7)
    assert learning_rate(config, warmup + step + 1, total) <= learning_rate(config, warmup + step, total)


@given(warmup=st.integers(0, 100), length=st.integers(2, 1000), ratio=st.floats(0.0, 1.0))
def test_the_cosine_starts_at_lr_and_ends_at_its_ratio(warmup: int, length: int, ratio: float) -> None:
    config = OptimConfig(lr=0.1, warmup_steps=warmup, schedule=ScheduleKind.cosine, final_lr_ratio=ratio)
    total = warmup + length
    assert learning_rate(config, warmup, total) == pytest.approx(0.1)
    assert learning_rate(config, total - 1, total) == pytest.approx(0.1 * ratio)


def test_halving_halves_at_the_interval_and_not_before() -> None:
    config = OptimConfig(lr=0.8, schedule=ScheduleKind.halving, halve_every=10)
    assert [learning_rate(config, step, 100) for step in (0, 9, 10, 19, 20)] == pytest.approx([0.8, 0.8, 0.4, 0.4, 0.2])


@pytest.mark.parametrize(
    ("kind", "expected"), [(OptimizerKind.adam, torch.optim.Adam), (OptimizerKind.adamw, torch.optim.AdamW)]
)
def test_the_optimiser_is_the_one_named(kind: OptimizerKind, expected: type[torch.optim.Optimizer]) -> None:
    config = OptimConfig(kind=kind, lr=0.3, betas=[0.5, 0.6], eps=1e-4, weight_decay=0.2)
    optimizer = build_optimizer(nn.Linear(2, 2).parameters(), config)
    assert type(optimizer) is expected
    group = optimizer.param_groups[0]
    assert [group[name] for name in ("lr", "betas", "eps", "weight_decay")] == [0.3, (0.5, 0.6), 1e-4, 0.2]


def test_choices_may_be_given_as_text() -> None:
    config = OptimConfig(kind="adamw", schedule="cosine")
    assert (config.kind, config.schedule) == (OptimizerKind.adamw, ScheduleKind.cosine)


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": 0.0},
        {"lr": float("nan")},
        {"betas": [0.9]},
        {"betas": [0.9, 1.0]},
        {"eps": 0.0},
        {"weight_decay": -1.0},
        {"warmup_steps": -1},
        {"final_lr_ratio": 1.5},
        {"halve_every": 0},
    ],
)
def test_a_wrong_setting_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .*must be"):
        OptimConfig(**wrong)
