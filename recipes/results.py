"""Puts measured figures into the README: `python -m recipes.results NAME=FOLDER ...`

Copies what a demo, `wavenet evaluate`, `wavenet benchmark`, a GPU report or `recipes.serve_load` left in each FOLDER to
recipes/results/NAME, and writes all tables found there between the README's two markers.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from recipes.benchmark import checkpoints
from recipes.benchmark.rows import from_json
from recipes.benchmark.tables import LENGTHS, SHARES, tables
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
FOLDED = ("kernels", "shares", "limits")  # groups whose tables are long


def main(arguments: list[str]) -> None:
    """Collect the named folders, then rewrite the README's section.

    Raises:
        ValueError: figures of a dry or quick run.
    """
    for argument in arguments:
        name, _, source = argument.partition("=")
        files = _files(Path(source))
        (HOME / name).mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copyfile(Path(source) / file, HOME / name / file)
    sections = [_section(folder) for folder in sorted(HOME.iterdir()) if list(folder.glob("*.json"))]
    if not list(HOME.glob(f"*/{GPU[0]}")):
        sections.append(gpu_section(None))
    before, _, rest = README.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    README.write_text(before + "\n\n".join([BEGIN, *sections, END]) + after)


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
    home = HOME.relative_to(README.parent)
    pictures = (("Samples per second by length", LENGTHS), ("Share of each operator", SHARES))
    return "\n\n".join([*parts, *(f"![{title}]({home / folder.name / file})" for title, file in pictures)])


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


if __name__ == "__main__":
    main(sys.argv[1:])
