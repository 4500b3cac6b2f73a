"""A long time under the same load: memory each second, and what is left over in the end."""

import asyncio
from collections import Counter
from typing import Any

import numpy as np

from recipes.serve_load.asking import RIGHT, Asker, Question
from recipes.serve_load.load import closed, opened, quantiles
from recipes.serve_load.server import Server

_WARMING = 8  # clients, who bring every thread and buffer into being
_SETTLING = 20.0  # s until everybody who has left must be forgotten
_BEGINNING = 10  # the first tenth is not part of the slope


async def soak(
    server: Server, asked: list[Question], speaker: str | None, rate: float, minutes: float
) -> dict[str, Any]:
    """Poisson arrivals, so many a second.

    Returns:
        Requests by outcome, latency, memory in MiB (one number a second, its slope in MiB a minute), and how many
        asyncio tasks, requests, threads and file descriptors there are more than before.
    """
    async with Asker(server.url, asked, speaker) as asker:
        await closed(asker, server, _WARMING, min(3.0, 60 * minutes))
    before = await _held(server, None)
    memory: list[float] = []
    watching = asyncio.create_task(_watch(server, memory))
    try:
        async with Asker(server.url, asked, speaker) as asker:
            level = await opened(asker, server, rate, 60 * minutes, seed=1)
    finally:
        watching.cancel()
    after = await _held(server, before)
    settled = memory[len(memory) // _BEGINNING :]
    slope = float(np.polyfit(np.arange(len(settled)) / 60, settled, 1)[0]) if len(settled) > 1 else 0.0
    return {
        "minutes": minutes,
        "rate": rate,
        "requests": len(level.replies),
        "outcomes": dict(Counter(reply.outcome for reply in level.replies)),
        "latency": quantiles([reply.seconds for reply in level.replies if reply.outcome == RIGHT]),
        "memory": [round(each, 2) for each in memory],
        "slope": slope,
        "range": [min(settled), max(settled)] if settled else None,
        "left_over": {name: after[name] - before[name] for name in after},
    }


async def _watch(server: Server, memory: list[float]) -> None:
    while server.process is not None:
        memory.append((await asyncio.to_thread(server.usage)).memory)
        await asyncio.sleep(1)


async def _held(server: Server, least: dict[str, float] | None) -> dict[str, float]:
    """What the server holds when nobody is there; waits until it is no more than `least`."""
    held: dict[str, float] = {}
    for _ in range(round(_SETTLING)):
        metrics, usage = await server.metrics(), server.usage()
        held = {
            "tasks": metrics["wavenet_tasks"],
            "requests": metrics["wavenet_running_requests"],
            "threads": usage.threads,
            "files": usage.files,
        }
        if held["requests"] == 0 and (least is None or all(held[name] <= least[name] for name in held)):
            break
        await asyncio.sleep(1)
    return held
