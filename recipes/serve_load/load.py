"""Closed loops, where each of so many clients asks again once it has its answer, and open ones, where nobody waits."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from recipes.serve_load.asking import RIGHT, STREAM, Asker, Reply
from recipes.serve_load.server import Server
from serve.service import cores

Unloaded = dict[tuple[int, str], float]  # question and address -> s
_SETTLING = 3  # the first third of a closed loop is not counted as throughput: until then the queue fills up
_COMING = 1.0  # s
_RETRY = 1.0  # s, as the server asks for; up to as much again, so that not all come back at once


@dataclass
class Level:
    """Replies of so many seconds under one load, and what all that has cost."""

    replies: list[Reply]
    began: float
    seconds: float  # for which requests were sent
    server: float  # CPU seconds
    generator: float  # CPU seconds
    wall: float  # s until the last answer
    batches: float  # mean size
    lateness: float  # s, the most by which a request of an open loop was sent too late

    def rate(self) -> tuple[float, float]:
        """Samples/s and requests/s that were answered rightly once the load had settled; if none was, at any time."""
        right = [each for each in self.replies if each.outcome == RIGHT]
        begin, end = self.began + self.seconds / _SETTLING, self.began + self.seconds
        counted = [each for each in right if begin <= each.began + each.seconds < end]
        if not counted:
            begin, end, counted = self.began, self.began + self.wall, right
        return sum(each.samples for each in counted) / (end - begin), len(counted) / (end - begin)


async def unloaded(asker: Asker, repeats: int) -> Unloaded:
    """Median time of every question at every address, when there is nobody else."""
    replies = [reply for _ in range(repeats) for reply in await asker.all()]
    kinds = {(reply.question, reply.path) for reply in replies}
    return {
        kind: float(np.median([each.seconds for each in replies if (each.question, each.path) == kind]))
        for kind in kinds
    }


async def closed(asker: Asker, server: Server, clients: int, seconds: float) -> Level:
    """So many clients, each of which asks as soon as it has been answered. They come within the first second."""
    end, rng = time.perf_counter() + seconds, np.random.default_rng(clients)

    async def client() -> list[Reply]:
        replies = []
        await asyncio.sleep(rng.uniform(0, min(_COMING, seconds / 2)))
        while time.perf_counter() < end:
            replies.append(await asker.ask(*asker.next()))
            if replies[-1].outcome.startswith(("429", "503")):
                await asyncio.sleep(_RETRY + rng.uniform(0, _RETRY))
        return replies

    async def load(_: float) -> tuple[list[Reply], float]:
        return [reply for own in await asyncio.gather(*(client() for _ in range(clients))) for reply in own], 0.0

    return await _measured(server, seconds, load)


async def opened(asker: Asker, server: Server, rate: float, seconds: float, seed: int = 0) -> Level:
    """Poisson arrivals, so many a second; nobody asks twice. Delays count from when a request was due."""
    gaps = np.random.default_rng(seed).exponential(1 / rate, max(1, round(rate * seconds)))
    gaps *= seconds / gaps.sum()

    async def load(began: float) -> tuple[list[Reply], float]:
        tasks, late = [], 0.0
        for due in began + np.cumsum(gaps):
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            late = max(late, time.perf_counter() - due)
            tasks.append(asyncio.create_task(asker.ask(*asker.next(), due)))
        return list(await asyncio.gather(*tasks)), late

    return await _measured(server, seconds, load)


async def _measured(server: Server, seconds: float, load: Any) -> Level:
    before, used, own = await server.metrics(), server.usage().cpu, time.process_time()
    began = time.perf_counter()
    replies, late = await load(began)
    wall, own = time.perf_counter() - began, time.process_time() - own
    used, after = server.usage().cpu - used, await server.metrics()
    size, turns = (after[name] - before.get(name, 0) for name in ("wavenet_batch_size_sum", "wavenet_batch_size_count"))
    return Level(replies, began, seconds, used, own, wall, size / max(1, turns), late)


def summary(level: Level, alone: Unloaded) -> dict[str, Any]:
    """Figures of a level; times in s."""
    spoken = [reply for reply in level.replies if reply.outcome == RIGHT]
    samples, requests = level.rate()
    return {
        "seconds": level.seconds,
        "requests": len(level.replies),
        "outcomes": dict(Counter(reply.outcome for reply in level.replies)),
        "samples_per_second": samples,
        "requests_per_second": requests,
        "latency": quantiles([reply.seconds for reply in spoken]),
        "first_byte": quantiles([reply.first for reply in spoken if reply.path == STREAM and reply.first]),
        "slowdown": quantiles([reply.seconds / alone[reply.question, reply.path] for reply in spoken]),
        "refusal": quantiles([reply.seconds for reply in level.replies if reply.outcome == "429"]),
        "batch": level.batches,
        "lateness": level.lateness,
        "server_cpu": level.server / level.wall / cores(),
        "generator_cpu": level.generator / level.wall / cores(),
    }


def quantiles(values: list[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {f"p{q}": float(np.percentile(values, q)) for q in (50, 95, 99)}


def fair_queue(level: Level, alone: Unloaded, capacity: float, sizes: list[int]) -> dict[str, float] | None:
    """Slowdowns that arithmetic gives for the same arrivals, if the engine cost nothing but computing.

    Everyone who is there gets an equal share of `capacity` samples/s (processor sharing), and what a request takes
    beside that when nobody else is there, it takes here too.
    """
    arrivals = sorted((reply.began, sizes[reply.question], (reply.question, reply.path)) for reply in level.replies)
    shared = shared_evenly([time for time, _, _ in arrivals], [size / capacity for _, size, _ in arrivals])
    return quantiles(
        [
            1 + max(0.0, stay - size / capacity) / alone[kind]
            for stay, (_, size, kind) in zip(shared, arrivals, strict=True)
        ]
    )


def shared_evenly(arrivals: list[float], work: list[float]) -> list[float]:
    """How long each stays that comes at a time with so many seconds of work, in a queue that all share evenly."""
    left: dict[int, float] = {}
    stays, now, come = [0.0] * len(arrivals), 0.0, 0
    while left or come < len(arrivals):
        least = min(left, key=lambda number: left[number]) if left else None
        ends = now + left[least] * len(left) if least is not None else np.inf
        begins = arrivals[come] if come < len(arrivals) else np.inf
        passed = (min(ends, begins) - now) / max(1, len(left))
        left = {number: rest - passed for number, rest in left.items()}
        now = min(ends, begins)
        if least is not None and ends <= begins:
            stays[least] = now - arrivals[least]
            del left[least]
        else:
            left[come] = work[come]
            come += 1
    return stays
