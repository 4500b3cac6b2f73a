"""Figures of a run as tables, and what they say of the targets."""

from typing import Any

from recipes.provenance import table

FILE = "serve_load.json"
LEAST_SHARE = 0.85  # of the bare engine's throughput, less the generator's share
MOST_SLOWDOWN = 2.0  # of p99 below saturation
MOST_GROWTH = 0.02  # of the memory, over the second to the last minute of the endurance run
LATEST_REFUSAL = 0.05  # s
_ALLOWED = {"right", "429"}  # outcomes under load


def targets(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Of the parts that ran: what was wanted, what was reached, whether it holds, and whether it is about speed."""
    judged = []

    def judge(target: str, reached: str, holds: bool, speed: bool = False) -> None:
        judged.append({"target": target, "reached": reached, "holds": holds, "speed": speed})

    replies = [row["outcomes"] for row in [*facts["closed"], *facts["open"], *filter(None, [facts["soak"]])]]
    others = {name for outcomes in replies for name in outcomes} - _ALLOWED
    if replies:
        asked = sum(sum(outcomes.values()) for outcomes in replies)
        right = sum(outcomes.get("right", 0) for outcomes in replies)
        said = ", ".join(sorted(others)) or f"{right:,} are right, {asked - right:,} were sent away"
        judge(f"every one of {asked:,} answers is one pass, or 429", said, not others)
    if facts["closed"]:
        share = _best(facts["closed"])
        wanted = LEAST_SHARE * facts["bare"] * (1 - share["generator_cpu"])
        judge(
            f"at saturation {LEAST_SHARE:.0%} of the bare engine, less the generator's {share['generator_cpu']:.1%}",
            f"{share['samples_per_second'] / facts['bare'] / (1 - share['generator_cpu']):.0%}",
            share["samples_per_second"] >= wanted,
            speed=True,
        )
    if refused := [row["refusal"]["p99"] for row in [*facts["closed"], *facts["open"]] if row["refusal"]]:
        judge(
            f"p99 of a refusal under {1000 * LATEST_REFUSAL:.0f} ms",
            f"{1000 * max(refused):.0f} ms",
            max(refused) < LATEST_REFUSAL,
            speed=True,
        )
    if facts["open"]:
        rows = [row for row in facts["open"] if row["slowdown"]]
        held = [row["share"] for row in rows if row["slowdown"]["p99"] < MOST_SLOWDOWN]
        judge(
            f"below saturation p99 under {MOST_SLOWDOWN:g} x the unloaded time",
            f"at {', '.join(f'{share:.0%}' for share in held)} of capacity" if held else "at no share of capacity",
            len(held) == len(rows),
            speed=True,
        )
    if facts["soak"]:
        _judge_soak(facts["soak"], facts["quick"], judge)
    for row in facts["faults"]:
        said = "; ".join(row["found"]) or ", ".join(f"{n} {name}" for name, n in sorted(row["outcomes"].items()))
        judge(row["fault"], said or "none", not row["found"])
    return judged


def _judge_soak(soak: dict[str, Any], quick: bool, judge: Any) -> None:
    left = {name: n for name, n in soak["left_over"].items() if n > 0}
    judge("nothing is left over", ", ".join(f"{n:g} {name}" for name, n in left.items()) or "nothing", not left)
    if soak["range"] and not quick:  # the growth of seconds says nothing
        growth = soak["slope"] * soak["minutes"] / soak["range"][0]
        judge(f"memory grows less than {MOST_GROWTH:.0%}", f"{growth:+.1%}", growth < MOST_GROWTH)


def section(facts: dict[str, Any]) -> str:
    """Markdown: targets, tables, origin."""
    origin = facts["provenance"]
    lines = [["target", "reached", ""]]
    lines += [[one["target"], one["reached"], "yes" if one["holds"] else "no"] for one in facts["targets"]]
    parts = [
        f"**`{facts['name']}`**: `wavenet serve`, {facts['workers']} worker(s), utterances of "
        f"{', '.join(f'{seconds:g}' for seconds in facts['lengths'])} s",
        f"`{origin['command']}`, {origin['device']}, torch {origin['torch']}, commit `{origin['commit']}`",
        table(lines),
    ]
    if facts["closed"]:
        parts.append(
            f"*Load* (unloaded an utterance takes {1000 * facts['unloaded']:.0f} ms; the bare engine makes "
            f"{facts['bare']:,.0f} samples/s; slowdown is time over the unloaded time; fair queue is what arithmetic "
            "gives a server without overhead that everyone shares evenly)"
        )
        named = [(f"{row['clients']} clients", row) for row in facts["closed"]]
        named += [(f"{row['share']:.0%} of capacity", row) for row in facts["open"]]
        parts.append(_loads(named))
    if facts["soak"]:
        parts.append(_endurance(facts["soak"]))
    return "\n\n".join(parts)


def _loads(named: list[tuple[str, dict[str, Any]]]) -> str:
    header = ["load", "samples/s", "requests/s", "p50 / p95 / p99, ms", "first byte, ms", "slowdown p50 / p99"]
    header += ["fair queue p99", "turns of", "429", "its p99, ms", "server CPU", "generator CPU"]
    lines = [header]
    for name, row in named:
        slow, fair = row["slowdown"], row.get("fair")
        lines.append(
            [
                name,
                f"{row['samples_per_second']:,.0f}",
                f"{row['requests_per_second']:.1f}",
                _milliseconds(row["latency"]),
                _milliseconds(row["first_byte"]),
                f"{slow['p50']:.1f} / {slow['p99']:.1f}" if slow else "",
                f"{fair['p99']:.1f}" if fair else "",
                f"{row['batch']:.1f}",
                str(row["outcomes"].get("429", 0)),
                f"{1000 * row['refusal']['p99']:.0f}" if row["refusal"] else "",
                f"{row['server_cpu']:.0%}",
                f"{row['generator_cpu']:.0%}",
            ]
        )
    return table(lines)


def _endurance(soak: dict[str, Any]) -> str:
    text = (
        f"*Endurance*: {soak['minutes']:g} minutes at {soak['rate']:.1f} requests/s, {soak['requests']:,} requests, "
        f"p50 / p95 / p99 {_milliseconds(soak['latency'])} ms"
    )
    if not soak["range"]:
        return text
    low, high = soak["range"]
    return f"{text}; memory {low:.0f} to {high:.0f} MiB, {soak['slope']:+.2f} MiB a minute"


def _best(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return max(rows, key=lambda row: row["samples_per_second"])


def capacity(rows: list[dict[str, Any]]) -> tuple[float, float]:
    """Samples/s and requests/s of the best closed loop."""
    best = _best(rows)
    return best["samples_per_second"], best["requests_per_second"]


def _milliseconds(times: dict[str, float] | None) -> str:
    return " / ".join(f"{1000 * seconds:.0f}" for seconds in times.values()) if times else ""
