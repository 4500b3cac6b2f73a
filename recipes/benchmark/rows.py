"""One measured figure, its spread, and the limit of the machine that it is held against."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

LIMITS = "limits"  # the group whose rows are the limits themselves


@dataclass
class Row:
    """One line of a table.

    Args:
        group: which table.
        labels: what was measured, by column.
        unit: of `value`, the median over the repetitions, and of `low` and `high`, the extremes.
        path: the processor's instructions that ran; "" where torch or numba chose.
        limit: name of the limit, "" for none; `reached` is in its unit.
        also: further limits, and what is reached in their units: the nearest counts.
        figures: further ones, by column.
    """

    group: str
    labels: dict[str, str]
    unit: str
    value: float
    low: float
    high: float
    repeats: int
    path: str = ""
    limit: str = ""
    reached: float = 0.0
    also: dict[str, float] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)


def measured(group: str, labels: Mapping[str, object], unit: str, values: Sequence[float], **further: Any) -> Row:
    """The row of repeated measurements; `further` are the fields of `Row` after `repeats`."""
    named = {column: str(label) for column, label in labels.items()}
    spread = (statistics.median(values), min(values), max(values))
    return Row(group, named, unit, *spread, len(values), **further)


def matrix_limit(dtype: str, threads: int) -> str:
    return f"matrix product, {dtype}, {_count(threads)}"


def copy_limit(threads: int) -> str:
    return f"copy, {_count(threads)}"


def _count(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"


def limit_shares(row: Row, rows: Sequence[Row]) -> dict[str, float]:
    """The share that a row reaches of each of its limits, of the mean of what this run measured before and after; the
    nearest first, and none that was not measured.
    """
    shares = {}
    for name, reached in {row.limit: row.reached, **row.also}.items():
        limits = [one.value for one in rows if one.group == LIMITS and one.labels["limit"] == name]
        if limits:
            shares[name] = reached / statistics.mean(limits)
    return dict(sorted(shares.items(), key=lambda share: -share[1]))


def of_limit(row: Row, rows: Sequence[Row]) -> float | None:
    """The share of its nearest limit that a row reaches, if it was measured."""
    return next(iter(limit_shares(row, rows).values()), None)


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [{**asdict(row), "of_limit": of_limit(row, rows)} for row in rows]


def from_json(values: Sequence[Mapping[str, Any]]) -> list[Row]:
    return [Row(**{name: value for name, value in one.items() if name != "of_limit"}) for one in values]
