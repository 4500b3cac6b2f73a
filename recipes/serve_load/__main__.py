"""What the server bears: `python -m recipes.serve_load --checkpoint DIR --out runs/serve_load`, a quarter of an hour.

It starts `wavenet serve` itself and asks it from this process, so that what asking costs is known. Parts:

    load    more and more clients; then arrivals at shares of what the server can do; the engine without a server
    soak    minutes at 80 % of that
    faults  clients, workers and bodies that misbehave, at a server of its own

Every sound is compared with one pass in this process. `python -m recipes.results serve=runs/serve_load` puts the
figures among the results.
"""

import asyncio
import gc
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import numpy as np
import typer

from recipes.cli import report_errors
from recipes.outputs import check_writable
from recipes.provenance import provenance, write_results
from recipes.serve_load.asking import Asker, questions
from recipes.serve_load.bare import bare_throughput
from recipes.serve_load.faults import faults
from recipes.serve_load.load import closed, fair_queue, opened, summary, unloaded
from recipes.serve_load.report import FILE, capacity, section, targets
from recipes.serve_load.server import Server, started
from recipes.serve_load.soak import soak
from serve import Vocoder
from serve.service import cores
from serve.voices import find_checkpoint

PARTS = ("load", "soak", "faults")
_SOAKING = 0.8  # of the capacity
_LONGEST, _LASTING = 50.0, 0.5  # s of an utterance that is interrupted, at most; s that one pass over it takes
_BESIDE = 600.0  # s that everything but the endurance run may take


@dataclass
class Extent:
    """How much of everything.

    Args:
        clients: of closed loops.
        shares: of the capacity, of open loops.
        closed, opened: s of each.
        bare: s of the engine.
        repeats: of every question at an unloaded server.
        lengths: s of utterances.
    """

    clients: tuple[int, ...]
    shares: tuple[float, ...]
    closed: float
    opened: float
    bare: float
    repeats: int
    lengths: tuple[float, ...]


FULL = Extent((1, 2, 4, 8, 16, 32, 64), (0.1, 0.25, 0.5, 0.8, 0.95), 7, 18, 9, 3, (0.5, 1, 1.5, 2))
QUICK = Extent((1, 8, 64), (0.5,), 1, 1, 1, 1, (0.3, 0.6))


def main(
    checkpoint: Annotated[str, typer.Option(help="Name of a voice, or directory of a student.")],
    out: Annotated[Path, typer.Option(help=f"Folder for {FILE}, serve_load.md and the servers' logs.")] = Path(
        "runs/serve_load"
    ),
    minutes: Annotated[float, typer.Option(help="Of the endurance run.")] = 10.0,
    workers: Annotated[int, typer.Option(help="Of the server under load.")] = 1,
    only: Annotated[str, typer.Option(help=f"Some of {','.join(PARTS)}; by default all.")] = "",
    url: Annotated[str, typer.Option(help="A server that runs already with this checkpoint; no faults then.")] = "",
    quick: Annotated[
        bool, typer.Option("--quick", help="Some seconds of everything: only show that it holds.")
    ] = False,
) -> None:
    """Exit codes: 0; 1 something was wrong or hung (speed is not judged by it); 2 bad usage."""
    chosen = (
        [name.strip() for name in only.split(",")] if only else [part for part in PARTS if not url or part != "faults"]
    )
    if unknown := set(chosen) - set(PARTS):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: choose among {', '.join(PARTS)}", param_hint="--only")
    if url and "faults" in chosen:
        raise typer.BadParameter("another's server is not to be killed: leave --url or the faults out")
    if not 1 <= workers <= cores():
        raise typer.BadParameter(f"workers is {workers}: choose from 1 to the number of cores, {cores()}")
    if not 0 < minutes <= 24 * 60:
        raise typer.BadParameter(f"{minutes:g}: choose more than 0 and at most a day", param_hint="--minutes")
    with report_errors():
        check_writable(out)
        run = Run(find_checkpoint(checkpoint), out, QUICK if quick else FULL, workers, url, quick)
        _give_up_after(_BESIDE + 60 * minutes)
        asyncio.run(run.all(chosen, 0.05 if quick else minutes))
        print((out / "serve_load.md").read_text())
    if not all(one["holds"] for one in run.facts["targets"] if not one["speed"]):
        raise typer.Exit(1)


class Run:
    """All parts, one after the other; on disk after each."""

    def __init__(self, checkpoint: Path, out: Path, extent: Extent, workers: int, url: str, quick: bool) -> None:
        self._checkpoint, self._out, self._extent, self._url = checkpoint, out, extent, url
        vocoder = Vocoder.from_pretrained(checkpoint)
        self._device = vocoder.device.type
        self._speaker = next(iter(vocoder.speakers), None)
        self._asked = questions(vocoder, extent.lengths)
        began = time.perf_counter()
        questions(vocoder, extent.lengths, seeds=1)
        speed = sum(extent.lengths) / (time.perf_counter() - began)  # seconds of sound a second
        self._long = questions(vocoder, (min(_LONGEST, speed * _LASTING),), seeds=1)[0]
        gc.freeze()  # as the server does: a pause of this process would count as the server's
        out.mkdir(parents=True, exist_ok=True)
        self.facts: dict[str, Any] = {
            "name": "serve",
            "quick": quick,
            "workers": workers,
            "lengths": list(extent.lengths),
            "bare": None,
            "unloaded": None,
            "closed": [],
            "open": [],
            "soak": None,
            "faults": [],
        }

    async def all(self, parts: list[str], minutes: float) -> None:
        if "load" in parts:
            self.facts["bare"] = await asyncio.to_thread(
                bare_throughput,
                self._checkpoint,
                [(question.mel, question.seed) for question in self._asked],
                self.facts["workers"],
                self._extent.bare,
            )
            self._write()
        if {"load", "soak"} & set(parts):
            async with self._server() as server:
                if "load" in parts:
                    await self._load(server)
                if "soak" in parts:
                    await self._soak(server, minutes)
        if "faults" in parts:
            log = self._out / "faults.log"
            self.facts["faults"] = await faults(self._checkpoint, self._asked, self._long, self._speaker, log)
            self._write()

    @asynccontextmanager
    async def _server(self) -> AsyncIterator[Server]:
        if self._url:
            server = Server(self._url.rstrip("/"), None)
            await server.wait_until_ready()
            yield server
            return
        options = ("--workers", self.facts["workers"])
        async with started(self._checkpoint, self._out / "server.log", *options) as server:
            yield server

    async def _load(self, server: Server) -> None:
        extent, facts = self._extent, self.facts
        async with self._asker(server) as asker:
            await closed(asker, server, 2, extent.closed / 3)
            alone = await unloaded(asker, extent.repeats)
            facts["unloaded"] = float(np.mean(list(alone.values())))
            for clients in extent.clients:
                level = await closed(asker, server, clients, extent.closed)
                facts["closed"].append({"clients": clients, **summary(level, alone)})
                self._write()
            samples, requests = capacity(facts["closed"])
            sizes = [len(question.wav) for question in self._asked]
            for share in extent.shares:
                level = await opened(asker, server, share * requests, extent.opened)
                fair = fair_queue(level, alone, samples, sizes)
                facts["open"].append({"share": share, **summary(level, alone), "fair": fair})
                self._write()

    async def _soak(self, server: Server, minutes: float) -> None:
        rows = self.facts["closed"]
        if rows:
            rate = capacity(rows)[1]
        else:
            async with self._asker(server) as asker:
                rate = (await closed(asker, server, 8, self._extent.closed)).rate()[1]
        self.facts["soak"] = await soak(server, self._asked, self._speaker, _SOAKING * rate, minutes)
        self._write()

    def _asker(self, server: Server) -> Asker:
        return Asker(server.url, self._asked, self._speaker)

    def _write(self) -> None:
        self.facts["targets"] = targets(self.facts)
        write_results(self._out / FILE, self._device, self.facts)
        text = section({**self.facts, "provenance": provenance(self._device)})
        (self._out / "serve_load.md").write_text(text + "\n")


def _give_up_after(seconds: float) -> None:
    """Whatever hangs, this does not."""

    def late(number: int, frame: FrameType | None) -> None:
        raise RuntimeError(f"not done after {seconds:.0f} s")

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)


if __name__ == "__main__":
    typer.run(main)
