"""Tables and pictures of what a suite measured."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from recipes.benchmark import shares, student
from recipes.benchmark.rivals import Rival, rivals
from recipes.benchmark.rows import Row, limit_shares
from recipes.pictures import Curve, draw_curves, draw_shares
from recipes.provenance import table

LENGTHS, SHARES = "lengths.png", "shares.png"


def tables(rows: Sequence[Row]) -> dict[str, str]:
    """One table for every group and unit, by its title; the student's ends with the rivals."""
    keys = dict.fromkeys((row.group, row.unit) for row in rows)
    return {
        f"{group}, {unit}": _table([row for row in rows if (row.group, row.unit) == (group, unit)], rows)
        for group, unit in keys
    }


def report(rows: Sequence[Row]) -> str:
    """All tables under their titles."""
    return "\n\n".join(f"{title}\n\n{text}" for title, text in tables(rows).items())


def draw(out: Path, rows: Sequence[Row]) -> None:
    """Samples a second by length, and shares of operators, where they were measured."""
    curves: dict[str, Curve] = {}
    for row in rows:
        if row.group == student.GROUP:
            name = f"{row.labels['preset']}, {row.labels['dtype']}, {row.labels['backend']}"
            seconds = float(row.labels["audio"].removesuffix(" s"))
            curves.setdefault(name, []).append((seconds, row.value, row.low, row.high))
    if curves:
        draw_curves(out / LENGTHS, curves, {rival.name: rival.samples_per_second for rival in rivals()})
    spent: dict[str, dict[str, float]] = {}
    for row in rows:
        if row.group == shares.GROUP:
            spent.setdefault(row.labels["of"], {})[row.labels["operator"]] = row.value
    if spent:
        draw_shares(out / SHARES, spent)


def _table(rows: Sequence[Row], everything: Sequence[Row]) -> str:
    """Columns that are empty throughout are left out."""
    labels = dict.fromkeys(name for row in rows for name in row.labels)
    figures = dict.fromkeys(name for row in rows for name in row.figures)
    header = [*labels, rows[0].unit, "range", "of limit", *figures, "path"]
    cells = [header]
    cells += [
        [
            *(row.labels.get(name, "") for name in labels),
            number(row.value),
            f"{number(row.low)} .. {number(row.high)}" if row.repeats > 1 else "",
            _of_limits(limit_shares(row, everything)),
            *(number(row.figures[name]) if name in row.figures else "" for name in figures),
            row.path,
        ]
        for row in rows
    ]
    if rows[0].group == student.GROUP:
        cells += [_rival(rival, header) for rival in rivals()]
    kept = [column for column in range(len(header)) if any(line[column] for line in cells[1:])]
    return table([[line[column] for column in kept] for line in cells])


def _of_limits(shares: Mapping[str, float]) -> str:
    if len(shares) < 2:
        return "".join(f"{100 * share:.1f} %" for share in shares.values())
    return ", ".join(f"{100 * share:.1f} % ({name})" for name, share in shares.items())


def _rival(rival: Rival, header: Sequence[str]) -> list[str]:
    known = {
        header[0]: f"{rival.name} ({rival.source})",
        student.UNIT: number(rival.samples_per_second),
        "path": rival.device,
    }
    return [known.get(column, "") for column in header]


def number(value: float) -> str:
    """With three digits or, if there are more before the point, all of those."""
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 0.1 else f"{value:.2g}"
