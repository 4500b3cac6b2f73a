"""Puts measured figures into the README: `python -m recipes.results NAME=FOLDER ...`

Copies evaluation.json, benchmark.json and the pictures that a demo left in each FOLDER to recipes/results/NAME, and
writes all tables found there between the README's two markers.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from recipes import benchmark, evaluate

HOME = Path(__file__).parent / "results"
README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- results -->", "<!-- /results -->"
FILES = ("evaluation.json", "benchmark.json", "spectrograms.png")


def main(arguments: list[str]) -> None:
    """Collect the named folders, then rewrite the README's section."""
    for argument in arguments:
        name, _, folder = argument.partition("=")
        (HOME / name).mkdir(parents=True, exist_ok=True)
        for file in FILES:
            shutil.copyfile(Path(folder) / file, HOME / name / file)
    sections = [_section(folder) for folder in sorted(HOME.iterdir()) if folder.is_dir()]
    before, _, rest = README.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    README.write_text(before + "\n\n".join([BEGIN, *sections, END]) + after)


def _section(folder: Path) -> str:
    judged, timed = (json.loads((folder / file).read_text()) for file in FILES[:2])
    clips = judged["data"]
    return "\n\n".join(
        [
            f"**`{folder.name}`**: {clips['utterances']} clips of the {clips['split']} split, {clips['seconds']:.0f} s",
            evaluate.report([evaluate.Row(**row) for row in judged["rows"]]),
            _origin(judged),
            benchmark.report([benchmark.Speed(**speed) for speed in timed["samplers"]]),
            _origin(timed),
        ]
    )


def _origin(results: dict[str, Any]) -> str:
    origin = results["provenance"]
    return f"`{origin['command']}`, {origin['device']}, torch {origin['torch']}, commit `{origin['commit']}`"


if __name__ == "__main__":
    main(sys.argv[1:])
