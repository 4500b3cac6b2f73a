"""What the figures of a GPU report are to reach, and the report in Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from recipes.benchmark.rows import Row, from_json, of_limit
from recipes.benchmark.tables import number, tables
from recipes.gpu_report_bench import COMPILED, COPY, EAGER, FULL, OURS, Sizes
from recipes.provenance import table

Labels = dict[str, str]


@dataclass(frozen=True)
class Target:
    """The value of a row, over that of another if there is one, or its share of the copy limit.

    Times are better the smaller they are: there `of` is the rival's row, and `over` ours.
    """

    name: str
    least: float
    of: Labels
    over: Labels | None = None
    share: bool = False

    def judged(self, rows: Sequence[Row]) -> dict[str, Any]:
        reached = self._reached(rows)
        verdict = "not yet measured" if reached is None else "met" if reached >= self.least else "not met"
        return {"target": self.name, "least": self.least, "reached": reached, "verdict": verdict}

    def _reached(self, rows: Sequence[Row]) -> float | None:
        row = _find(rows, self.of)
        if row is None:
            return None
        if self.share:
            assert row.limit == COPY
            return of_limit(row, rows)
        if self.over is None:
            return row.value
        other = _find(rows, self.over)
        return None if other is None else row.value / other.value


def _find(rows: Sequence[Row], labels: Labels) -> Row | None:
    return next((row for row in rows if labels.items() <= row.labels.items()), None)


def targets(sizes: Sizes) -> list[Target]:
    """Of the run that has these sizes."""
    return [*_gate(sizes), *_student(sizes), *_sequential(sizes), *_training(sizes)]


def _gate(sizes: Sizes) -> list[Target]:
    what = "gated activation, forward and backward"
    row = {"op": "gated_activation", "pass": "forward, backward", "dtype": sizes.half}
    ours, compiled = row | {"way": OURS}, row | {"way": COMPILED}
    return [
        Target(f"{what}: share of the copy limit", 0.7, ours, share=True),
        Target(f"{what}: torch.compile's time over ours", 1.0, compiled, ours),
    ]


def _student(sizes: Sizes) -> list[Target]:
    """Whole calls, mel in and samples out; against torch.compile the pass, on noise that is there."""
    preset, cases = next(iter(sizes.students.items()))
    short, long, most = (f"{batch} x {seconds:g} s" for batch, seconds in cases)
    speaks = {"preset": preset, "way": OURS, "noise": "drawn"}
    given = {"preset": preset, "utterances": most, "noise": "given"}
    teacher = {"preset": sizes.teacher, "batch": str(sizes.batches[0])}
    at_length = speaks | {"utterances": long}
    return [
        Target(f"student {preset}, {most}: samples/s", 2e7, speaks | {"utterances": most}),
        Target(f"student {preset}, {most}: over torch.compile", 1.5, given | {"way": OURS}, given | {"way": COMPILED}),
        Target(f"student {preset}, {short}: samples/s", 5e6, speaks | {"utterances": short}),
        Target(f"student {preset}, {long}: over the naive teacher", 1e3, at_length, teacher | {"sampler": "naive"}),
        Target(f"student {preset}, {long}: over the cached teacher", 100, at_length, teacher | {"sampler": "cached"}),
    ]


def _sequential(sizes: Sizes) -> list[Target]:
    """Until there is a kernel for it, by the cached sampler."""
    found = []
    for batch, least in ((sizes.batches[0], 8e3), (sizes.batches[-1], 2e5)):
        row = {"preset": sizes.teacher, "batch": str(batch), "sampler": "cached"}
        found.append(Target(f"teacher {sizes.teacher}, batch {batch}, cached in torch: samples/s", least, row))
    return found


def _training(sizes: Sizes) -> list[Target]:
    rows = [({"task": case.task, "way": OURS}, {"task": case.task, "way": EAGER}) for case in sizes.training]
    return [Target(f"training step, {ours['task']}: over eager", 1.3, ours, eager) for ours, eager in rows]


def section(facts: dict[str, Any] | None) -> str:
    """Targets, tables and origin in Markdown; of nothing, the targets alone."""
    judged = [target.judged([]) for target in targets(FULL)] if facts is None else facts["targets"]
    lines = [["target", "at least", "reached", ""]]
    for one in judged:
        reached = "" if one["reached"] is None else number(one["reached"])
        lines.append([one["target"], number(one["least"]), reached, one["verdict"]])
    if facts is None:
        title = "**`gpu`**: not yet measured; `python -m recipes.gpu_report` measures it, on an NVIDIA GPU"
        return f"{title}\n\n{table(lines)}"
    origin = facts["provenance"]
    title = "**a dry run on a CPU: no figure here is one**" if facts["dry"] else "**`gpu`**: medians, random weights"
    text = [
        title,
        f"`{origin['command']}`, {origin['device']}, torch {origin['torch']}, triton {facts['triton']}, "
        f"commit `{origin['commit']}`",
        *(f"`{run['command']}`: {run['says']}" for run in facts["tests"]),
        table(lines),
        *(f"*{name}*\n\n{rows}" for name, rows in tables(from_json(facts["rows"])).items()),
        *(f"```\n{error}\n```" for error in facts["errors"]),
    ]
    return "\n\n".join(text)
