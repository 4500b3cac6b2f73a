"""The ablation: every row leaves one thing out, and what is judged stands in the table."""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from recipes import ablation
from recipes.configuration import ConfigError, configure
from recipes.distill_student import DistillConfig
from recipes.train_teacher import TrainConfig
from wavenet.distributions import OutputKind

PAPER = {
    "kl.corrected", "kl.edge", "power.frame_weight", "power.high_weight", "power.low_weight", "power.mel_weight",
}  # fmt: skip
LEFT_OUT = {
    "kl_first": {"kl.end"},
    "without_kl": {"kl.weight", "contrastive.weight"},
    "paper": PAPER,
    "paper_without_kl": PAPER | {"kl.weight", "contrastive.weight"},
    "without_correction": {"kl.corrected"},
    "without_edge": {"kl.edge"},
    "without_spectral": PAPER | {"power.mean_weight"},
    "without_high_band": {"power.high_weight"},
    "without_low_band": {"power.low_weight"},
    "without_mel": {"power.mel_weight"},
    "without_perceptual": {"perceptual.weight"},
    "without_contrastive": {"contrastive.weight"},
    "without_pitch": set(),  # its teacher's
    "mixture": set(),
    "mulaw": set(),
    "gaussian": set(),
}


@cache
def student(row: str) -> dict[str, Any]:
    given = ["data=data", "teacher_checkpoint=teacher", f"experiment=ablation_{row}_student"]
    return asdict(configure("distill", given, DistillConfig))


def teacher(row: str) -> TrainConfig:
    return configure("train", ["data=data", f"experiment=ablation_{row}_teacher"], TrainConfig)


def result(row: str, seed: int = 0, **values: float) -> dict[str, Any]:
    estimates = {
        name: {"mean": value, "low": None, "high": None, "clips": 1, "missing": 0} for name, value in values.items()
    }
    return {
        "row": row,
        "seed": seed,
        "teacher": "mol, 7 steps",
        "budget": {"steps": 5, "clips": 2, "samples": 64},
        "alike": {"student": {"flows": [4]}, "corpus": "abc", "judged on": 3},
        "verdict": "whispering",
        "judged": {
            how: {"name": f"{row}-{seed}, {how}", "kind": "student", "estimates": estimates, "real_time_factor": None}
            for how in ablation.HEARD
        },
        "less": [],
        "provenance": {"command": f"run {row}", "device": "abacus", "torch": "2", "commit": f"{row}{seed}"},
    }


def test_every_row_has_a_config_and_the_full_loss_is_the_first() -> None:
    assert ablation.rows()[0] == "full"
    assert set(ablation.rows()) == {"full", *LEFT_OUT}


def test_the_full_row_has_every_term_that_others_leave_out() -> None:
    losses = student("full")["losses"]
    for term, weights in (
        ("kl", ["weight"]),
        ("contrastive", ["weight"]),
        ("perceptual", ["weight"]),
        ("power", ["frame_weight", "high_weight", "low_weight", "mean_weight", "mel_weight"]),
    ):
        assert all(losses[term][weight] > 0 for weight in weights)


def test_but_for_the_ear_the_full_row_is_the_default() -> None:
    default = asdict(configure("distill", ["data=data", "teacher_checkpoint=teacher"], DistillConfig))["losses"]
    assert {**student("full")["losses"], "perceptual": None} == {
        **default, "kl": {**default["kl"], "draws": 16}, "perceptual": None
    }  # fmt: skip


@pytest.mark.parametrize("row", LEFT_OUT)
def test_a_row_differs_in_what_its_name_says_and_nothing_else(row: str) -> None:
    full, other = student("full"), student(row)
    differs = {
        f"{term}.{name}"
        for term, own in full["losses"].items()
        for name in own
        if own[name] != other["losses"][term][name]
    }
    assert differs == LEFT_OUT[row]
    for name in differs - {"kl.end"}:
        term, field = name.split(".")
        assert other["losses"][term][field] == 0
    assert {**full, "losses": None} == {**other, "losses": None}


def test_the_divergence_ends_before_the_training_does() -> None:
    assert student("full")["losses"]["kl"]["end"] is None
    assert student("kl_first")["losses"]["kl"]["end"] == 600


def test_teachers_differ_in_what_their_names_say_alone() -> None:
    mol, mulaw, gaussian, pitchless = (teacher(name) for name in ("mol", "mulaw", "gaussian", "without_pitch"))
    assert [one.output.kind for one in (mol, mulaw, gaussian, pitchless)] == [
        OutputKind.mol, OutputKind.mulaw, OutputKind.gaussian, OutputKind.mol,
    ]  # fmt: skip
    assert [one.condition.pitch for one in (mol, mulaw, gaussian, pitchless)] == [True, True, True, False]
    pitchless.condition.pitch = True
    for one in (mulaw, gaussian, pitchless):
        one.output = mol.output
        assert one == mol


def test_rows_stand_in_one_order_with_their_figures_and_origins() -> None:
    text = ablation.report([result("mulaw", pesq=1.25), result("full", pesq=2.5, floor=-3.0)])
    lines = text.splitlines()
    assert lines[0] == "Every student: 5 steps of 2 x 64 samples, one corpus."
    assert [line for line in lines if line.endswith(":")] == ["The students alone:", "Corrected, as they are heard:"]
    first, second = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines[6:8])
    assert first[:3] == ["full", "mol, 7 steps", "2.50"] and first[-2:] == ["-3.00", "whispering"]
    assert second[:3] == ["mulaw", "mol, 7 steps", "1.25"] and second[-2] == ""
    assert "- full: `run full`, abacus, torch 2, commit `full0`" in lines


def test_of_several_seeds_the_first_is_shown_and_all_have_their_origin() -> None:
    seeds = [result("full", seed, pesq=2.5 if seed == 0 else 1.25) for seed in (4, 5, 0, 3)]
    seeds[1]["provenance"] = seeds[0]["provenance"]
    text = ablation.report(seeds)
    assert text.count("2.50") == 2 and "1.25" not in text
    assert text.splitlines()[-1] == (
        "- full: `run full`, abacus, torch 2, commit `full0`; seed 3: abacus, torch 2, commit `full3`; "
        "seeds 4, 5: abacus, torch 2, commit `full4`"
    )


def test_every_row_is_compared_with_what_it_differs_from_in_one_thing() -> None:
    bases = {row: ablation.bases_of(row) for row in ablation.rows()}
    assert bases.pop("full") == bases.pop("mixture") == []
    assert [bases.pop(row) for row in ("gaussian", "mulaw", "without_pitch")] == [["mixture"]] * 3
    assert bases.pop("without_kl") == ["full", "kl_first"]
    assert bases.pop("paper_without_kl") == ["paper"]
    assert all(its == ["full"] for its in bases.values())


def write_rows(out: Path, spoken: dict[tuple[str, int], dict[str, dict[str, float]]]) -> None:
    """Rows that are done: of each what its clips have alone; corrected, all have a PESQ of 4."""
    for (row, seed), clips in spoken.items():
        run = out / f"{row}-{seed}"
        (run / "evaluation").mkdir(parents=True)
        (run / "ablation.json").write_text(json.dumps(result(row, seed, pesq=2.0)))
        heard = [
            {
                "id": name,
                "figures": {
                    f"{row}-{seed}, alone": {"values": values},
                    f"{row}-{seed}, corrected": {"values": {"pesq": 4.0}},
                },
            }
            for name, values in clips.items()
        ]
        (run / "evaluation" / "evaluation.json").write_text(json.dumps({"clips": heard}))


def cells_after(results: list[dict[str, Any]], title: str) -> list[str]:
    """The cells of the first table under such a title."""
    return [cell.strip() for cell in ablation.report(results).split(f"{title}:")[1].split("|")]


CLIPS, SEEDS = "The students alone, differences clip by clip", "The students alone, differences of the means over seeds"


def test_differences_are_those_of_the_clips_that_both_have(tmp_path: Path) -> None:
    spoken = {
        ("full", 0): {"a": {"pesq": 2.0, "floor": 1.0}, "b": {"pesq": 1.5}, "c": {"pesq": 4.0}},
        ("full", 1): {"a": {"pesq": 9.0}},  # of another seed
        ("without_kl", 0): {"a": {"pesq": 1.75, "floor": 3.0}, "b": {"pesq": 1.0}, "d": {"pesq": 1.0}},
    }
    write_rows(tmp_path, spoken)
    full, _, without = ablation.collect(tmp_path, [])
    [less] = without["less"]
    assert full["less"] == [] and less["row"] == "full"
    pesq = less["alone"]["pesq"]
    assert (pesq["mean"], pesq["clips"], pesq["low"], pesq["high"]) == (-0.375, 2, -0.5, -0.25)
    assert less["alone"]["floor"]["mean"] == 2 and less["alone"]["f0"]["mean"] is None
    assert less["corrected"]["pesq"]["mean"] == 0
    cells = cells_after([full, without], CLIPS)
    assert cells[cells.index("without kl") :][:3] == ["without kl", "full", "-0.38 ± 0.12"]
    assert "clip by clip" not in ablation.report([full])


def test_rows_of_before_are_kept_and_those_done_again_replaced(tmp_path: Path) -> None:
    write_rows(tmp_path, {("full", 0): {"a": {"pesq": 2.0}}, ("full", 1): {"a": {"pesq": 2.0}}})
    estimates = result("full", pesq=0.5)["judged"]["alone"]["estimates"]
    less = {"row": "full", "alone": estimates, "corrected": estimates}
    kept = [
        result("full", pesq=9.0),
        {**result("without_kl"), "less": [less, {**less, "row": "kl_first"}]},
        {**result("without_pitch"), "less": [{**less, "row": "mixture"}]},
    ]
    results = {(one["row"], one["seed"]): one for one in ablation.collect(tmp_path, kept)}
    assert results.keys() == {("full", 0), ("full", 1), ("without_kl", 0), ("without_pitch", 0)}
    assert results["full", 0] == result("full", pesq=2.0)
    assert [one["row"] for one in results["without_kl", 0]["less"]] == ["kl_first"]  # its `full` is another by now
    assert [one["row"] for one in results["without_pitch", 0]["less"]] == ["mixture"]


def test_over_seeds_differences_have_the_interval_of_student() -> None:
    pairs = {0: (2.0, 1.5), 1: (2.5, 2.25), 5: (3.0, 3.0), 7: (1.0, None)}
    results = [result("full", seed, pesq=full) for seed, (full, _) in pairs.items()]
    results += [result("without_kl", seed, pesq=less) for seed, (_, less) in pairs.items() if less is not None]
    cells = cells_after(results, SEEDS)
    half = 4.302653 * 0.25 / 3**0.5  # the quantile of two degrees of freedom; standard deviation; seeds
    assert cells[cells.index("without kl") :][:4] == ["without kl", "full", "3", f"-0.25 ± {half:.2f}"]


def test_of_one_seed_there_is_no_interval_over_seeds() -> None:
    assert "over seeds" not in ablation.report([result("full"), result("full", 1), result("without_kl", 1)])


def test_a_table_without_rows_is_refused() -> None:
    with pytest.raises(ConfigError, match="no row is done"):
        ablation.report([])


@pytest.mark.parametrize(
    ("group", "field", "value"),
    [
        ("budget", "steps", 6),
        ("budget", "clips", 1),
        ("budget", "samples", 32),
        ("alike", "student", {"flows": [8]}),
        ("alike", "corpus", "another"),
        ("alike", "judged on", 2),
    ],
)
def test_rows_that_do_not_compare_are_refused(group: str, field: str, value: object) -> None:
    other = result("mulaw")
    other[group][field] = value
    with pytest.raises(ConfigError, match=rf"mulaw had {field} {re.escape(str(value))}; full had {field} .*one budget"):
        ablation.report([result("full"), other])


def test_a_row_that_does_not_tell_its_student_is_not_compared() -> None:
    other = result("mulaw")
    del other["alike"]
    with pytest.raises(ConfigError, match="mulaw had student None, corpus None, judged on None"):
        ablation.report([result("full"), other])


def test_teachers_of_different_steps_are_told_apart() -> None:
    other = {**result("mulaw"), "teacher": "mulaw, 8 steps"}
    assert "The teachers' steps differ." in ablation.report([result("full"), other])
    assert "differ" not in ablation.report([result("full"), result("mulaw")])


def test_publishing_replaces_what_is_between_the_markers_and_keeps_the_rest(tmp_path: Path) -> None:
    readme, store = tmp_path / "README.md", tmp_path / "ablation.json"
    readme.write_text(f"before\n{ablation.BEGIN}\nold\n{ablation.END}\nafter\n")
    for _ in range(2):
        text = ablation.publish([result("full")], store, readme)
        assert readme.read_text() == f"before\n{ablation.BEGIN}\n\n{text}\n\n{ablation.END}\nafter\n"
    assert json.loads(store.read_text()) == [result("full")]


def test_the_readme_has_the_markers() -> None:
    text = ablation.README.read_text()
    assert text.count(ablation.BEGIN) == text.count(ablation.END) == 1


def test_an_unknown_row_is_refused_with_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no row 'without_ears'.*without_kl"):
        ablation.train_row("without_ears", 0, tmp_path, tmp_path, 1, tmp_path, [])


@pytest.mark.slow
def test_a_row_is_distilled_judged_and_collected(
    toy_corpus: Path,
    toy_teacher: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small = ["student=tiny", "losses.power.fft_sizes=[64,128]", "losses.kl.draws=4"]
    small += ["crops.frames=8", "trainer.batch_size=2", "trainer.validate_batches=1", "trainer.workers=0"]
    arguments = ["--data", toy_corpus, "--teacher", toy_teacher, "--steps", 2, "--out", tmp_path, "--clips", 2]
    for row, seed in (("without_kl", 3), ("without_perceptual", 0)):
        run = ["ablation", "run", row, "--seed", seed, *arguments, *small, "losses.perceptual.weight=0"]
        assert invoke(monkeypatch, *run) == 0
    monkeypatch.setattr(ablation, "RESULTS", tmp_path / "kept.json")
    (tmp_path / "kept.json").write_text("[]")
    monkeypatch.setattr(ablation, "publish", ablation.report)
    assert invoke(monkeypatch, "ablation", "table", "--out", tmp_path) == 0
    table = capsys.readouterr().out
    assert "Every student: 2 steps of 2 x 512 samples, one corpus." in table
    assert "| without kl " in table and "| without perceptual " in table and "mol, 0 steps" in table
    done = json.loads((tmp_path / "without_kl-3" / "ablation.json").read_text())
    alone, corrected = (done["judged"][how]["estimates"]["log_mel_l1"]["mean"] for how in ablation.HEARD)
    assert alone > corrected > 0
    assert done["verdict"] and done["provenance"]["commit"] and done["seed"] == 3


def invoke(monkeypatch: pytest.MonkeyPatch, *command: object) -> int:
    monkeypatch.setattr(sys, "argv", [str(word) for word in command])
    run: Callable[[], None] = ablation.app
    with pytest.raises(SystemExit) as ended:
        run()
    return int(ended.value.code or 0)
