"""Puts measured figures where they are read: `python -m recipes.results NAME=FOLDER ...`

Copies what a demo, `wavenet evaluate`, `wavenet benchmark`, a GPU report or `recipes.serve_load` left in each FOLDER to
recipes/results/NAME, and writes all tables found there into recipes/results/README.md, and those of what ships between
the two markers of the README.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from recipes.benchmark import checkpoints, student, teacher
from recipes.benchmark.rows import LIMITS, Row, from_json
from recipes.benchmark.tables import LENGTHS, SHARES, tables
from recipes.cli import report_errors
from recipes.evaluate_measures import report, row_from_json
from recipes.gpu_report_targets import section as gpu_section
from recipes.serve_load.report import FILE as LOAD
from recipes.serve_load.report import section as load_section

HOME = Path(__file__).parent / "results"
README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- results -->", "<!-- /results -->"
DEMO = ("evaluation.json", "benchmark.json", "spectrograms.png")
SUITE = ("benchmark.json", LENGTHS, SHARES)
GPU = ("gpu.json",)
NAME = re.compile(r"[A-Za-z0-9_-]+")
FOLDED = ("kernels", "shares", "limits")  # groups whose tables are long


app = typer.Typer(help=__doc__, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(help=__doc__)
def publish(
    figures: Annotated[list[str] | None, typer.Argument(metavar="[NAME=FOLDER]...", show_default=False)] = None,
) -> None:
    """Collect the named folders, then write the tables anew.

    Raises:
        ValueError: what is no NAME=FOLDER; a folder without figures; figures of a dry or quick run.
    """
    found = [_source(figure) for figure in figures or []]
    for name, source, files in found:
        (HOME / name).mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copyfile(source / file, HOME / name / file)
    sections = [_section(folder) for folder in sorted(HOME.iterdir()) if list(folder.glob("*.json"))]
    if not list(HOME.glob(f"*/{GPU[0]}")):
        sections.append(gpu_section(None))
    _between_markers(HOME / "README.md", sections)
    _between_markers(README, [brief(HOME / name) for name, brief in SHIPPED.items() if (HOME / name).is_dir()])


def _source(figure: str) -> tuple[str, Path, tuple[str, ...]]:
    """The name, the folder and what is copied of it."""
    name, given, source = figure.partition("=")
    if not (given and source and NAME.fullmatch(name)):
        raise ValueError(f"{figure!r} is no NAME=FOLDER, as voice=runs/evaluation: a name is letters, digits, - and _")
    return name, Path(source), _files(Path(source))


def _between_markers(page: Path, sections: list[str]) -> None:
    before, _, rest = page.read_text().partition(BEGIN)
    page.write_text(before + "\n\n".join([BEGIN, *sections, END]) + rest.partition(END)[2])


def _files(source: Path) -> tuple[str, ...]:
    if (source / GPU[0]).exists():
        if _read(source / GPU[0])["dry"]:
            raise ValueError(f"{source / GPU[0]} is of a dry run, whose figures mean nothing: run it on a GPU")
        return GPU
    if (source / LOAD).exists():
        if _read(source / LOAD)["quick"]:
            raise ValueError(f"{source / LOAD} is of a quick run, whose figures mean nothing: run it without --quick")
        return (LOAD,)
    if not (source / DEMO[0]).exists():
        if not (source / SUITE[0]).exists():
            raise ValueError(f"{source} holds no figures: name what a demo, an evaluation or a benchmark left")
        return SUITE
    return DEMO if (source / DEMO[1]).exists() else DEMO[:1]


def _section(folder: Path) -> str:
    if (folder / GPU[0]).exists():
        return gpu_section(_read(folder / GPU[0]))
    if (folder / LOAD).exists():
        return load_section(_read(folder / LOAD))
    return _demo(folder) if (folder / DEMO[0]).exists() else _suite(folder)


def _suite(folder: Path) -> str:
    results = _read(folder / "benchmark.json")
    parts = [f"**`{folder.name}`**: medians, random weights, batch 1 unless said", _origin(results)]
    for title, text in tables(from_json(results["rows"])).items():
        if title.startswith(FOLDED):
            parts.append(f"<details><summary>{title}</summary>\n\n{text}\n\n</details>")
        else:
            parts.append(f"*{title}*\n\n{text}")
    pictures = (("Samples per second by length", LENGTHS), ("Share of each operator", SHARES))
    return "\n\n".join([*parts, *(f"![{title}]({folder.name}/{file})" for title, file in pictures)])


def _speed(folder: Path) -> str:
    """Of a suite how fast a student says ten seconds, beside others' figures, and a teacher by its fastest sampler."""
    results = _read(folder / "benchmark.json")
    rows = [row for row in from_json(results["rows"]) if row.group == LIMITS or _is_told(row)]
    told = [f"*{title}*\n\n{text}" for title, text in tables(rows).items() if not title.startswith(LIMITS)]
    return "\n\n".join([f"**`{folder.name}`**: medians, random weights, batch 1 unless said", *told, _origin(results)])


def _is_told(row: Row) -> bool:
    labels = (row.group, row.labels.get("audio"), row.labels.get("backend"))
    return labels in ((student.GROUP, "10 s", "native"), (teacher.GROUP, None, "numba"))


def _demo(folder: Path) -> str:
    """What was judged, by a demo or by `wavenet evaluate`; and timed, by a demo."""
    judged = _read(folder / DEMO[0])
    clips = judged["data"]
    split = f" of the {clips['split']} split" if clips["split"] else ""
    parts = [
        f"**`{folder.name}`**: {clips['utterances']} clips{split}, {clips['seconds']:.0f} s",
        report([row_from_json(row) for row in judged["rows"]]),
        _origin(judged),
    ]
    if (folder / DEMO[1]).exists():
        timed = _read(folder / DEMO[1])
        parts += [checkpoints.report([checkpoints.Speed(**speed) for speed in timed["samplers"]]), _origin(timed)]
    return "\n\n".join(parts)


def _read(path: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads(path.read_text())
    return results


def _origin(results: dict[str, Any]) -> str:
    origin = results["provenance"]
    return f"`{origin['command']}`, {origin['device']}, torch {origin['torch']}, commit `{origin['commit']}`"


SHIPPED = {"voice": _demo, "speed": _speed}  # what the README tells of


if __name__ == "__main__":
    with report_errors():
        app()
