"""The ablation: students of one budget that differ in one thing, judged alone and corrected, in distill/README.md.

    python -m recipes.ablation run ROW --data DATA --teacher RUN --steps N [--seed N] [FIELD=VALUE ...]
    python -m recipes.ablation table

ROW is one of configs/experiment/ablation_ROW_student.yaml; `run` distils it, or goes on, and judges it. What belongs to
a row beside its config is the teacher: configs/experiment/ablation_*_teacher.yaml are theirs. `table` adds the rows
that are done to those of results/ablation.json.
"""

import json
import sys
from dataclasses import asdict
from importlib.resources import files
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import typer
from scipy.stats import sem, t

from data.atomic import write_atomic
from data.sources import hash_text
from recipes.cli import report_errors
from recipes.configuration import ConfigError, configure
from recipes.distill_student import DistillConfig, distill
from recipes.evaluate import UNCORRECTED, Options, evaluate
from recipes.evaluate_measures import MEASURES, Estimate, cells, estimate, row_from_json
from recipes.provenance import provenance, table
from wavenet.checkpoint import load_description
from wavenet.device import find_device

RUNS = Path("runs/ablation")
RESULTS = Path(__file__).parent / "results" / "ablation.json"
README = Path(__file__).parent.parent / "distill" / "README.md"
BEGIN, END = "<!-- ablation -->", "<!-- /ablation -->"
HEARD = {"alone": "The students alone", "corrected": "Corrected, as they are heard"}
BASES = {  # where it is not the full loss that a row is compared with
    "full": [],
    "mixture": [],
    "mulaw": ["mixture"],  # their teachers had one budget
    "gaussian": ["mixture"],
    "without_pitch": ["mixture"],
    "without_kl": ["full", "kl_first"],
    "paper_without_kl": ["paper"],
}
COLUMNS = {name: MEASURES[name] for name in ("pesq", "log_mel_l1", "mcd", "f0", "voicing", "high_band", "floor")}

app = typer.Typer(help=__doc__, pretty_exceptions_enable=False, rich_markup_mode=None)


def rows() -> list[str]:
    """The rows that have a config, the full loss first."""
    names = [path.name for path in (files("configs") / "experiment").iterdir()]
    found = [
        name.removeprefix("ablation_").removesuffix("_student.yaml")
        for name in names
        if name.startswith("ablation_") and name.endswith("_student.yaml")
    ]
    return sorted(found, key=lambda row: (row != "full", row))


def train_row(
    row: str, seed: int, teacher: Path, data: Path, steps: int, out: Path, overrides: list[str]
) -> DistillConfig | None:
    """Distil the row's student in OUT/ROW-SEED, or go on; None when a signal ended the run before its last step.

    Raises:
        ConfigError: no such row, or what `wavenet distill` refuses.
    """
    if row not in rows():
        raise ConfigError(f"there is no row {row!r} of the ablation: choose one of {', '.join(rows())}")
    given = [f"data={data}", f"teacher_checkpoint={teacher}", f"run={_folder(out, row, seed)}"]
    given += [f"trainer.steps={steps}", f"trainer.seed={seed}", *overrides]
    config = configure("distill", [f"experiment=ablation_{row}_student", *given], DistillConfig)
    return config if distill(config) else None


def judge_row(row: str, config: DistillConfig, clips: int | None) -> dict[str, Any]:
    """What the table needs of a row that is done, written to OUT/ROW-SEED/ablation.json."""
    run = Path(config.run)
    out = run / "evaluation"
    judged = {
        one.name: one
        for one in evaluate(Options([run], Path(config.data), out, clips=clips, baselines=False))
        if one.kind == "student"
    }
    heard = {"alone": judged[f"{run}{UNCORRECTED}"], "corrected": judged[str(run)]}
    teacher = load_description(config.teacher_checkpoint)
    result = {
        "row": row,
        "seed": config.trainer.seed,
        "teacher": f"{Path(config.teacher_checkpoint).name}: {teacher.model['output']['kind']}, {teacher.step} steps",
        "budget": {
            "steps": config.trainer.steps,
            "clips": config.trainer.batch_size,
            "samples": config.crops.frames * int(teacher.mel["hop_length"]),
        },
        "alike": {
            "student": asdict(config.student),
            "corpus": hash_text(Path(config.data, "manifest.jsonl").read_text(encoding="utf-8")),
            "judged on": heard["alone"].estimates["log_mel_l1"].clips,
        },
        "verdict": _last_remark(run),
        "judged": {how: asdict(row) for how, row in heard.items()},
        "less": [],
        "provenance": provenance(str(find_device(config.trainer.device))),
    }
    write_atomic(run / "ablation.json", (json.dumps(result, indent=2, allow_nan=False) + "\n").encode())
    return result


def report(results: list[dict[str, Any]]) -> str:
    """The rows as tables, alone and corrected, and where each comes from.

    Raises:
        ConfigError: no rows; rows of different budgets, students, corpora or numbers of clips.
    """
    if not results:
        raise ConfigError(f"no row is done: begin with `python -m recipes.ablation run {rows()[0]} ...`")
    first, budget = _compared(results[0]), results[0]["budget"]
    for result in results:
        own = _compared(result)
        other = [name for name in first | own if first.get(name) != own.get(name)]
        if other:
            ours, theirs = (", ".join(f"{name} {had.get(name)}" for name in other) for had in (own, first))
            raise ConfigError(
                f"{result['row']} had {ours}; {results[0]['row']} had {theirs}, but rows compare at one budget: run "
                "them again with equal settings, or remove the ablation.json of the others"
            )
    results = sorted(results, key=lambda result: (rows().index(result["row"]), result["seed"]))
    said = f"Every student: {budget['steps']} steps of {budget['clips']} x {budget['samples']} samples, one corpus."
    if len({one["teacher"].partition(", ")[2] for one in results}) > 1:
        said += " The teachers' steps differ."
    by_row = {row: list(group) for row, group in groupby(results, key=itemgetter("row"))}
    shown = [group[0] for group in by_row.values()]
    tables = [
        text
        for how, name in HEARD.items()
        for text in (
            _report_figures(shown, how, name),
            *_report_clips(shown, how, name),
            *_report_seeds(by_row, how, name),
        )
    ]
    return "\n\n".join([said, *tables, "\n".join(_report_origins(group) for group in by_row.values())])


def bases_of(row: str) -> list[str]:
    """The rows that this one differs from in one thing; none for those that others are compared with."""
    return BASES.get(row, ["full"])


def collect(out: Path, kept: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that are done in OUT and, of the others, those kept from before.

    Each has its figures less those of its bases of the same seed, clip by clip, where OUT has or had both.
    """
    done = {_run(one): one for one in (json.loads(path.read_text()) for path in sorted(out.glob("*/ablation.json")))}
    for (row, seed), result in done.items():
        bases = [done[base, seed] for base in bases_of(row) if (base, seed) in done]
        result["less"] = [{"row": base["row"], **_differences(out, result, base)} for base in bases]
    others = [one for one in kept if _run(one) not in done]
    for one in others:
        one["less"] = [less for less in one["less"] if (less["row"], one["seed"]) not in done]
    return [*others, *done.values()]


def publish(results: list[dict[str, Any]], store: Path = RESULTS, readme: Path = README) -> str:
    """Keep the results, and write their table between the two markers of the README."""
    text = report(results)
    write_atomic(store, (json.dumps(results, indent=2, allow_nan=False) + "\n").encode())
    before, _, rest = readme.read_text().partition(BEGIN)
    readme.write_text(before + "\n\n".join([BEGIN, text, END]) + rest.partition(END)[2])
    return text


def _report_figures(results: list[dict[str, Any]], how: str, name: str) -> str:
    """The table of the rows' figures; the verdict, which is on the student alone, stands with those."""
    header = ["row", "teacher", *(measure.label for measure in COLUMNS.values())]
    lines = [[_name(one["row"]), one["teacher"], *cells(row_from_json(one["judged"][how]), COLUMNS)] for one in results]
    if how == "alone":
        header.append("verdict")
        lines = [[*line, one["verdict"]] for line, one in zip(lines, results, strict=True)]
    return f"{name}:\n\n{table([header, *lines])}"


def _report_clips(results: list[dict[str, Any]], how: str, name: str) -> list[str]:
    """What the rows differ by from their bases of the same seed, over clips."""
    lines = [[_name(one["row"]), _name(less["row"]), *_cells(less[how])] for one in results for less in one["less"]]
    return _report_differences(f"{name}, differences clip by clip", ["row", "less"], lines)


def _report_seeds(by_row: dict[str, list[dict[str, Any]]], how: str, name: str) -> list[str]:
    """What the means of the rows differ by from those of their bases, over the seeds that both have."""
    lines = []
    pairs = [(one, base) for one in by_row for base in bases_of(one) if base in by_row]
    for row, base in pairs:
        own, other = ({one["seed"]: _means(one, how) for one in by_row[key]} for key in (row, base))
        seeds = own.keys() & other.keys()
        if len(seeds) > 1:
            less = {
                key: [own[seed][key] - other[seed][key] for seed in seeds if key in own[seed] and key in other[seed]]
                for key in COLUMNS
            }
            estimates = {key: asdict(_over_seeds(differences)) for key, differences in less.items()}
            lines.append([_name(row), _name(base), str(len(seeds)), *_cells(estimates)])
    return _report_differences(f"{name}, differences of the means over seeds", ["row", "less", "seeds"], lines)


def _report_differences(title: str, header: list[str], lines: list[list[str]]) -> list[str]:
    labels = [measure.label for measure in COLUMNS.values()]
    return [f"{title}:\n\n{table([[*header, *labels], *lines])}"] if lines else []


def _cells(estimates: dict[str, Any]) -> list[str]:
    return cells(row_from_json({"name": "", "kind": "difference", "estimates": estimates}), COLUMNS)


def _means(result: dict[str, Any], how: str) -> dict[str, float]:
    means = {key: one["mean"] for key, one in result["judged"][how]["estimates"].items()}
    return {key: mean for key, mean in means.items() if mean is not None}


def _over_seeds(differences: list[float]) -> Estimate:
    """Mean and 95 % interval by Student's t: of a few seeds a bootstrap would know too little."""
    if len(differences) < 2:
        return Estimate(fmean(differences) if differences else None, None, None, len(differences), 0)
    mean, half = fmean(differences), float(t.ppf(0.975, len(differences) - 1) * sem(differences))
    return Estimate(mean, mean - half, mean + half, len(differences), 0)


def _name(row: str) -> str:
    return row.replace("_", " ")


def _folder(out: Path, row: str, seed: int) -> Path:
    return out / f"{row}-{seed}"


def _run(result: dict[str, Any]) -> tuple[str, int]:
    return result["row"], result["seed"]


def _differences(out: Path, result: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """A row's figures less those of its base, clip by clip, alone and corrected."""
    found = {}
    for how in HEARD:
        own, other = (_figures_by_clip(out, one, how) for one in (result, base))
        found[how] = {key: asdict(_less(own, other, key)) for key in COLUMNS}
    return found


def _figures_by_clip(out: Path, result: dict[str, Any], how: str) -> dict[str, dict[str, float]]:
    """What the row's evaluation says of every clip: its id -> figures."""
    path = _folder(out, *_run(result)) / "evaluation" / "evaluation.json"
    name = result["judged"][how]["name"]
    return {clip["id"]: clip["figures"][name]["values"] for clip in json.loads(path.read_text())["clips"]}


def _less(own: dict[str, dict[str, float]], other: dict[str, dict[str, float]], key: str) -> Estimate:
    """The mean difference over the clips for which both have the figure."""
    clips = [clip for clip in own if key in own[clip] and key in other.get(clip, {})]
    return estimate([own[clip][key] - other[clip][key] for clip in clips], 0, seed=0)


def _compared(result: dict[str, Any]) -> dict[str, Any]:
    """What is to be equal in all rows of a table."""
    return {**result["budget"], **result.get("alike", {})}


def _report_origins(row: list[dict[str, Any]]) -> str:
    """Where the runs of a row come from: the first one's command, and what the other seeds had else."""
    lines = [f"- {_name(row[0]['row'])}: `{row[0]['provenance']['command']}`, {_origin(row[0])}"]
    for origin, group in groupby(row[1:], key=_origin):
        seeds = [str(one["seed"]) for one in group]
        lines.append(f"seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}: {origin}")
    return "; ".join(lines)


def _origin(result: dict[str, Any]) -> str:
    origin = result["provenance"]
    return f"{origin['device']}, torch {origin['torch']}, commit `{origin['commit']}`"


def _last_remark(run: Path) -> str:
    """The name of the last verdict on the validation split; empty where there was no validation."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    remarks = [line["remark"] for line in lines if "remark" in line]
    return remarks[-1].partition(":")[0] if remarks else ""


@app.command("run")
def run_row(
    row: Annotated[str, typer.Argument(help=f"One of {', '.join(rows())}.")],
    data: Annotated[Path, typer.Option(help="Prepared corpus.")],
    teacher: Annotated[Path, typer.Option(help="The row's teacher.")],
    steps: Annotated[int, typer.Option(min=1, help="The same for all rows.")],
    seed: Annotated[int, typer.Option(min=0, help="Of the numbers that are drawn: a run of its own.")] = 0,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[FIELD=VALUE]...", show_default=False)] = None,
    out: Annotated[Path, typer.Option(help="Folder of the rows.")] = RUNS,
    clips: Annotated[int | None, typer.Option(min=1, help="Judged on so many clips at most.")] = None,
) -> None:
    """Distil a row, or go on, and judge it."""
    config = train_row(row, seed, teacher, data, steps, out, overrides or [])
    if config is None:
        sys.exit(1)
    print(report([judge_row(row, config, clips)]))


@app.command("table")
def write_table(out: Annotated[Path, typer.Option(help="Folder of the rows.")] = RUNS) -> None:
    """Collect the rows that are done, and those of before, into distill/README.md."""
    print(publish(collect(out, json.loads(RESULTS.read_text()))))


if __name__ == "__main__":
    with report_errors():
        app()
