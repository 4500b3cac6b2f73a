"""One run, in this process: what a step does, what is skipped, what is validated, when it stops."""

import itertools
import json
import os
import signal
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch

from wavenet.checkpoint import CheckpointError, load_description, load_weights
from wavenet.training import LossReport, TrainerConfig, TrainingDiverged


def curves(run: Path, name: str = "train/loss") -> dict[int, float]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line[name] for line in lines if name in line}


def saved_step(run: Path) -> int:
    step = torch.load(run / "trainer.pt", weights_only=True)["step"]
    assert isinstance(step, int)
    return step


def test_the_loss_falls_and_the_directory_explains_itself(toy: ModuleType, tmp_path: Path) -> None:
    assert toy.trainer(tmp_path, toy.Regression(), steps=200, lr=3e-2).run()
    losses = list(curves(tmp_path).values())
    assert sum(losses[-50:]) < 0.8 * sum(losses[:50])
    description = load_description(tmp_path, kind="teacher")
    assert (description.step, description.model, description.speakers) == (200, {"width": 16}, ["anna"])
    assert description.training["data"] == "toy"
    assert description.training["optim"]["lr"] == 3e-2
    assert load_weights(tmp_path).keys() == toy.Regression().model.state_dict().keys()


def test_the_shipped_weights_are_the_average_and_not_the_last_ones(toy: ModuleType, tmp_path: Path) -> None:
    toy.trainer(tmp_path, toy.Regression(), steps=20).run()
    state = torch.load(tmp_path / "trainer.pt", weights_only=True)
    for name, tensor in load_weights(tmp_path).items():
        assert torch.equal(tensor, state["ema"]["average"][name])
        assert not torch.equal(tensor, state["model"][name])


def test_equal_seeds_give_equal_curves_and_other_seeds_others(toy: ModuleType, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(hash(name))  # the state of the generator before the run is of no account
        toy.trainer(tmp_path / name, toy.Regression(), steps=12, seed=seed).run()
    assert curves(tmp_path / "a") == curves(tmp_path / "b") != curves(tmp_path / "c")


def test_a_step_takes_the_clipped_gradient_at_the_scheduled_rate(toy: ModuleType, tmp_path: Path) -> None:
    trainer = toy.trainer(tmp_path, toy.Regression(), steps=10, clip_norm=1e-3, warmup_steps=10, checkpoint_every=1)
    trainer.run()
    norm = torch.stack([param.grad.norm() for param in trainer.model.parameters()]).norm().item()
    assert norm == pytest.approx(1e-3, rel=1e-3)
    assert min(curves(tmp_path, "train/grad_norm").values()) > 1e-2  # logged before it is clipped
    expected = {step: 1e-2 * step / 10 for step in range(1, 11)}
    assert curves(tmp_path, "train/learning_rate") == pytest.approx(expected)


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_weights(toy: ModuleType, tmp_path: Path) -> None:
    seen = []

    class Watching(toy.Regression):
        def forward(self, batch: Any, step: int) -> LossReport:
            seen.append(self.model(batch.x).dtype)
            return super().forward(batch, step)

    trainer = toy.trainer(tmp_path, Watching(), steps=3, dtype="bfloat16")
    trainer.run()
    assert set(seen) == {torch.bfloat16}
    assert {param.dtype for param in trainer.model.parameters()} == {torch.float32}


def test_validation_sees_averaged_weights_in_eval_mode_and_the_same_draws_each_time(
    toy: ModuleType, tmp_path: Path
) -> None:
    seen = []

    class Watching(toy.Regression):
        def validate(self, batch: Any) -> dict[str, float]:
            seen.append((self.model.training, torch.is_grad_enabled(), self.model[0].weight.clone()))
            return super().validate(batch)

    trainer = toy.trainer(tmp_path, Watching(), steps=20)
    trainer.run()
    assert [(training, grad) for training, grad, _ in seen] == [(False, False)] * 4
    assert torch.equal(seen[-1][2], load_weights(tmp_path)["0.weight"])
    assert trainer.model.training
    draws = curves(tmp_path, "valid/draw")
    assert draws[10] == draws[20]
    assert curves(tmp_path, "valid/error")[10] != curves(tmp_path, "valid/error")[20]


def test_a_figure_that_some_batches_lack_is_the_mean_of_the_others(toy: ModuleType, tmp_path: Path) -> None:
    class Partial(toy.Regression):
        reports: ClassVar = [{"error": 1.0}, {"error": 3.0, "health": 5.0}]

        def validate(self, batch: Any) -> dict[str, float]:
            return self.reports.pop(0)

    toy.trainer(tmp_path, Partial(), steps=10).run()
    assert (curves(tmp_path, "valid/error")[10], curves(tmp_path, "valid/health")[10]) == (2.0, 5.0)


def test_validation_auditions_and_checkpoints_do_not_disturb_training(toy: ModuleType, tmp_path: Path) -> None:
    often = {"validate_every": 1, "audition_every": 2, "checkpoint_every": 1}
    toy.trainer(tmp_path / "often", toy.Regression(), steps=12, **often).run()
    toy.trainer(tmp_path / "never", toy.Regression(), steps=12, validate_every=0, checkpoint_every=100).run()
    assert curves(tmp_path / "often") == curves(tmp_path / "never")


def test_parts_outside_the_model_are_neither_trained_nor_switched_nor_shipped(toy: ModuleType, tmp_path: Path) -> None:
    objective = toy.Regression()
    before = objective.frozen.weight.clone()
    toy.trainer(tmp_path, objective, steps=10).run()
    assert torch.equal(objective.frozen.weight, before)
    assert not objective.frozen.training
    assert not any("frozen" in name for name in load_weights(tmp_path))


def test_a_step_without_a_finite_loss_is_skipped_said_and_counted(
    toy: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trainer = toy.trainer(tmp_path, toy.Regression(mishaps=toy.Mishaps(nan=range(3, 5))), steps=10)
    trainer.run()
    skips = curves(tmp_path, "train/skipped_steps")
    assert [skips[step] for step in (3, 4, 5, 6, 10)] == [0, 1, 2, 2, 2]
    assert curves(tmp_path)[4] is None
    assert all(param.isfinite().all() for param in trainer.model.parameters())
    assert "step 4 is skipped: its loss is nan" in capfd.readouterr().err


def test_a_step_without_a_finite_gradient_is_skipped_and_changes_nothing(toy: ModuleType, tmp_path: Path) -> None:
    weights = []

    def break_gradient(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * float("inf") if len(weights) == 6 else gradient

    class Watching(toy.Regression):
        def forward(self, batch: Any, step: int) -> LossReport:
            weights.append(self.model[0].weight.detach().clone())
            return super().forward(batch, step)

    objective = Watching()
    objective.model[0].weight.register_hook(break_gradient)
    toy.trainer(tmp_path, objective, steps=8).run()
    unchanged = [torch.equal(before, after) for before, after in itertools.pairwise(weights)]
    assert unchanged == [False, False, False, False, False, True, False]
    assert curves(tmp_path, "train/skipped_steps")[8] == 1


def test_twenty_skips_in_a_row_stop_the_run_and_keep_the_last_good_checkpoint(toy: ModuleType, tmp_path: Path) -> None:
    toy.trainer(tmp_path / "good", toy.Regression(), steps=10).run()
    run = tmp_path / "bad"
    for _ in range(2):  # the same command again meets the same end and spoils nothing
        objective = toy.Regression(mishaps=toy.Mishaps(nan=range(11, 1000)))
        with pytest.raises(
            TrainingDiverged, match=r"20 steps up to step 31.*checkpoint of step 10.*lower learning rate"
        ):
            toy.trainer(run, objective, steps=60).run()
        assert saved_step(run) == 10
        assert (run / "model.safetensors").read_bytes() == (tmp_path / "good" / "model.safetensors").read_bytes()


def test_nineteen_skips_in_a_row_do_not_stop_the_run(toy: ModuleType, tmp_path: Path) -> None:
    mishaps = toy.Mishaps(nan=[*range(2, 21), *range(22, 41)])
    assert toy.trainer(tmp_path, toy.Regression(mishaps=mishaps), steps=45).run()
    assert curves(tmp_path, "train/skipped_steps")[45] == 38


def test_a_checkpoint_that_falls_due_amid_skips_waits_for_a_good_step(toy: ModuleType, tmp_path: Path) -> None:
    saved = {}

    def look(step: int) -> Any:
        return lambda: saved.update({step: saved_step(tmp_path)})

    mishaps = toy.Mishaps(nan=range(13, 17), at_step={step: look(step) for step in (10, 15, 17, 18)})
    toy.trainer(tmp_path, toy.Regression(mishaps=mishaps), steps=19).run()
    assert saved == {10: 10, 15: 10, 17: 10, 18: 18}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_its_step_with_a_checkpoint(
    number: signal.Signals, toy: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    toy.trainer(tmp_path / "whole", toy.Regression(), steps=12).run()
    run, handler = tmp_path / "stopped", signal.getsignal(number)
    mishaps = toy.Mishaps(at_step={6: lambda: os.kill(os.getpid(), number)})
    assert not toy.trainer(run, toy.Regression(mishaps=mishaps), steps=12).run()
    assert signal.getsignal(number) is handler
    assert saved_step(run) == 7
    assert "the same command goes on from there" in capfd.readouterr().err
    assert toy.trainer(run, toy.Regression(), steps=12).run()
    assert (run / "log.jsonl").read_bytes() == (tmp_path / "whole" / "log.jsonl").read_bytes()


def test_a_second_signal_acts_at_once(toy: ModuleType, tmp_path: Path) -> None:
    def twice() -> None:
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins without it
    try:
        with pytest.raises(KeyboardInterrupt):
            toy.trainer(tmp_path, toy.Regression(mishaps=toy.Mishaps(at_step={6: twice})), steps=12).run()
    finally:
        signal.signal(signal.SIGINT, before)
    assert saved_step(tmp_path) == 5


def test_batches_that_end_too_early_are_an_error(toy: ModuleType, tmp_path: Path) -> None:
    trainer = toy.trainer(tmp_path, toy.Regression(), steps=12)
    trainer.batches = lambda first_step: iter([toy.pairs(0)] * 3)
    with pytest.raises(RuntimeError, match="ended after step 3 of 12"):
        trainer.run()


def test_a_run_directory_that_cannot_be_written_is_said_before_the_first_step(toy: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match=r"cannot write .*file/run/trainer\.pt"):
        toy.trainer(tmp_path / "file" / "run", toy.Regression(), steps=12).run()


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"seed": -1},
        {"log_every": 0},
        {"validate_every": -1},
        {"checkpoint_every": 0},
        {"clip_norm": 0.0},
        {"ema_decay": 1.0},
    ],
)
def test_a_wrong_setting_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .*must be"):
        TrainerConfig(**wrong)


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="float16"):
        TrainerConfig(dtype="float16")
