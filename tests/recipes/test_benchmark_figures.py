"""What the benchmark's figures mean: FLOP as counted by torch, fair turns, shares of a limit, tables."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from data.dataset import Batch
from data.mel import MelConfig
from distill.objective import DistillationObjective
from recipes.benchmark import flops, presets, student, timing, training
from recipes.benchmark.rivals import rivals
from recipes.benchmark.rows import as_json, copy_limit, from_json, measured, of_limit
from recipes.benchmark.shares import OTHERS, OUTSIDE, shares
from recipes.benchmark.tables import tables
from recipes.benchmark.timing import forget_peak, memory, peak_memory, race, using_threads
from wavenet.kernels import Backend, use_backend


def test_the_papers_student_costs_what_its_formula_says() -> None:
    model = presets.random_student("paper")
    assert flops.student_flops(model.config) == 60 * (2 * 3 * 64 * 128 + 2 * 64 * 64)


def test_flops_are_those_that_torch_counts() -> None:
    """Of the layers without a condition, whose projection the formulas leave out."""
    model = presets.random_teacher("tiny")
    stack, T = model.config.stack, 256
    network = model.network
    for block in network.blocks:
        block.condition = None
    x = torch.randn(1, T)
    with use_backend("reference"), FlopCounterMode(display=False) as forward:
        params = network(x, None)
    outputs = model.distribution.n_params
    assert forward.get_total_flops() == T * flops.teacher_flops(model.config, outputs)
    assert flops.stack_flops(replace(stack, layers=2 * stack.layers)) == 2 * flops.stack_flops(stack)
    with FlopCounterMode(display=False) as backward:
        params.sum().backward()
    both = forward.get_total_flops() + backward.get_total_flops()
    assert both == T * flops.teacher_step_flops(model.config, outputs)


def test_a_step_of_distillation_is_counted_as_it_is_computed() -> None:
    objective, left, counted = training._objective("distillation", training.QUICK, 8 * presets.MEL.hop_length)
    assert isinstance(objective, DistillationObjective)
    pupil, teacher = objective.model, objective.teacher
    lengths: list[int] = []
    for network in (teacher.network, *(flow.network for flow in pupil.chain.sequence)):
        network.register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    frames = left + 8
    wav, mel = torch.zeros(1, frames * presets.MEL.hop_length), presets.constant_mel(1, frames)
    objective(Batch(wav, mel, torch.zeros(1, dtype=torch.long), left * presets.MEL.hop_length, margin=0), 0)
    *flows, heard = lengths
    stacks = zip(flows, pupil.config.stacks(), strict=True)
    computed = 3 * sum(length * flops.stack_flops(stack) for length, stack in stacks)
    computed += 2 * heard * flops.teacher_flops(teacher.config, teacher.distribution.n_params)
    assert counted == computed


def test_contestants_take_turns() -> None:
    calls: list[str] = []
    seconds = race({name: lambda name=name: calls.append(name) for name in "ab"}, repeats=3, least=0.0)
    assert calls == [*"ab", *"ababab"]  # a warm-up each comes first
    assert [len(one) for one in seconds.values()] == [3, 3]


def test_short_calls_are_repeated_to_last() -> None:
    calls: list[int] = []
    ((one,),) = race({"a": lambda: calls.append(1)}, repeats=1, least=0.001).values()
    assert len(calls) > 10
    assert one < 0.001


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    with using_threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_a_share_is_of_the_mean_limit_of_the_same_run_and_survives_json() -> None:
    limits = [
        measured("limits", {"limit": copy_limit(2), "when": when}, "GB/s", [value])
        for when, value in (("before", 10.0), ("after", 30.0))
    ]
    row = measured("kernels", {"op": "gate"}, "ns", [3.0, 1.0, 2.0], limit=copy_limit(2), reached=5.0)
    assert (row.value, row.low, row.high, row.repeats) == (2.0, 1.0, 3.0, 3)
    assert of_limit(row, [*limits, row]) == pytest.approx(0.25)
    assert of_limit(replace(row, limit=copy_limit(1)), limits) is None
    assert from_json(as_json([*limits, row])) == [*limits, row]


def test_of_two_limits_the_nearer_counts_and_both_are_told() -> None:
    limits = [measured("limits", {"limit": name}, "", [most]) for name, most in (("copy", 100.0), ("product", 10.0))]
    row = measured("kernels", {"op": "layer"}, "ms", [1.0], limit="copy", reached=70.0, also={"product": 2.0})
    assert of_limit(row, limits) == pytest.approx(0.7)
    assert "70.0 % (copy), 20.0 % (product)" in tables([*limits, row])["kernels, ms"]
    assert of_limit(replace(row, also={"product": 9.0}), limits) == pytest.approx(0.9)
    assert of_limit(row, limits[:1]) == pytest.approx(0.7)
    assert from_json(as_json([*limits, row]))[-1] == row


def test_shares_add_up_to_the_whole() -> None:
    x = torch.randn(300, 300)
    rows = shares("a product", lambda: torch.tanh(x @ x))
    parts = {row.labels["operator"]: row.value for row in rows}
    assert {"aten::mm", "aten::tanh", OTHERS, OUTSIDE} <= parts.keys()
    assert parts["aten::mm"] > 0
    assert sum(parts.values()) == pytest.approx(100, abs=1)


def test_rivals_have_a_source_and_stand_in_the_students_table_alone() -> None:
    assert all(rival.samples_per_second > 0 and rival.source and rival.device for rival in rivals())
    rows = [
        measured("student", {"preset": "paper", "backend": "native"}, "samples/s", [1234.0], path="AVX2"),
        measured("teacher", {"preset": "base"}, "samples/s", [0.0567, 0.06]),
    ]
    texts = tables(rows)
    assert "1,234" in texts["student, samples/s"]
    assert all(rival.name in texts["student, samples/s"] for rival in rivals())
    header, _, row = texts["teacher, samples/s"].splitlines()
    assert [cell.strip() for cell in header.split("|")[1:-1]] == ["preset", "samples/s", "range"]
    assert [cell.strip() for cell in row.split("|")[1:-1]] == ["base", "0.058", "0.057 .. 0.06"]


def test_the_geometry_is_that_of_the_published_figures() -> None:
    assert MelConfig(sample_rate=22050, n_mels=80, hop_length=256) == presets.MEL
    assert presets.frames_of(10) == 861


def test_memory_is_what_speech_adds_also_where_it_stays_for_longer_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[torch.Tensor] = []

    def speak(*_: object) -> None:
        if not held:
            held.append(torch.ones(2**24))  # 64 MB, kept for all clips to come

    monkeypatch.setattr(student, "_speak", speak)
    model = presets.random_student("tiny", "tiny")
    peak = torch.ones(2**26)  # 256 MB that are gone before the first call
    del peak
    timings = student._time(model, Backend.reference, "float32", {0.1: 2, 0.2: 1})
    assert [len(one.seconds) for one in timings.values()] == [2, 1]
    memories = [one.memory for one in timings.values()]
    if forget_peak():
        assert all(memory is not None and 63 <= memory < 120 for memory in memories)
    else:
        assert memories == [None, None]


def test_memory_is_not_told_where_earlier_peaks_would_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, content: str) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "write_text", refuse)
    assert not forget_peak()
    monkeypatch.setattr(student, "_speak", lambda *_: None)
    (one,) = student._time(presets.random_student("tiny", "tiny"), Backend.reference, "float32", {0.1: 1}).values()
    assert one.memory is None


def test_what_the_status_does_not_tell_is_asked_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory("VmUnheardOf") is None
    told = peak_memory()
    monkeypatch.setattr(timing, "memory", lambda _: None)
    assert 0.5 < peak_memory() / told < 500  # a parent that was larger counts as well
