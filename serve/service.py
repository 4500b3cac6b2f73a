"""Everything that one server process has, behind its addresses."""

import asyncio
import hmac
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any, ParamSpec, TypeVar

from starlette.datastructures import Headers

from serve.engine import Engine, Job
from serve.metrics import Metrics
from serve.models import Models
from serve.problems import Problem, busy, unavailable
from serve.settings import ServeConfig

P = ParamSpec("P")
R = TypeVar("R")
logger = logging.getLogger("serve")
_PORTS = {"http": ":80", "https": ":443"}  # which an origin leaves out, and a Host may have


class Service:
    """Models, engine, counters, and who is let in.

    Args:
        threads: of the engine on a CPU; by default all cores.
    """

    def __init__(self, config: ServeConfig, threads: int | None = None) -> None:
        self.config = config
        self.metrics = Metrics()
        self.models = Models(config.checkpoints, config.device, config.dtype, config.rounds)
        self.engine = Engine(config.batch, config.queue, threads or cores(), self.metrics)
        self.draining = False
        self._running: set[asyncio.Timeout] = set()
        self._decoding = 0  # bodies
        self.reloaded: Callable[[], None] = lambda: None  # is called after a reload that a client asked for
        self._pool = ThreadPoolExecutor(cores(), "codec")

    def start(self) -> None:
        self.engine.start()

    def stop(self) -> None:
        self.engine.stop()
        self._pool.shutdown(wait=True, cancel_futures=True)

    async def compute(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Beside the event loop: for files and mels."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: function(*args, **kwargs))

    async def load(self) -> None:
        """Read the checkpoints, at first or again; see `Models.load`."""
        await asyncio.to_thread(self.models.load)

    def spoken(self, job: Job, rate: int) -> float:
        """Counts an utterance; how many times faster than real time it was computed."""
        factor = job.stream.samples / rate / job.seconds
        self.metrics.real_time_factor.observe(factor)
        return factor

    @property
    def running(self) -> int:
        """Requests."""
        return len(self._running)

    @asynccontextmanager
    async def counted(self) -> AsyncIterator[None]:
        """While a request runs.

        Raises:
            Problem: 503, it was broken off.
        """
        try:
            async with asyncio.timeout(None) as scope:
                self._running.add(scope)
                self.metrics.running.set(self.running)
                try:
                    yield
                finally:
                    self._running.discard(scope)
                    self.metrics.running.set(self.running)
        except TimeoutError:
            if not scope.expired():
                raise
            raise unavailable("this server stops, and waited in vain for the end of this: try again") from None

    def break_off(self) -> None:
        """Whatever runs."""
        for scope in self._running:
            scope.reschedule(asyncio.get_running_loop().time())

    @contextmanager
    def place(self) -> Iterator[None]:
        """While a body is decoded, for what it asks for.

        Raises:
            Problem: 429, there is none.
        """
        if self._full:
            raise self._busy()
        self._decoding += 1
        try:
            yield
        finally:
            self._decoding -= 1

    @property
    def _full(self) -> bool:
        return self.engine.jobs + self._decoding >= self.config.capacity

    def _busy(self) -> Problem:
        return busy(f"{self.config.capacity} utterances are being spoken or wait already: come back later")

    def refusal(self, path: str, headers: Headers) -> Problem | None:
        """Why a request to /v1 or /admin is sent away before it is looked at: 401, 403, 429 or 503."""
        if problem := _foreign(headers) or self._stranger(path, headers):
            return problem
        if self.draining:
            return unavailable("this server is about to stop: come back in a moment")
        if path.startswith("/admin/"):
            return None
        if not self.models.ready:
            return unavailable("the models are being loaded: come back in a moment")
        if path != "/v1/models" and (self._full or self.running >= 2 * self.config.capacity):
            return self._busy()
        return None

    def _stranger(self, path: str, headers: Headers) -> Problem | None:
        token = self.config.token
        if not token:
            if path.startswith("/admin/"):
                return Problem(403, "this server has no token, so it takes no orders: start it with one")
            return None
        scheme, _, shown = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(shown.strip().encode(), token.encode()):
            return None
        return Problem(
            401, "the token is missing or wrong: send Authorization: Bearer TOKEN", WWW_Authenticate="Bearer"
        )

    async def reload(self) -> None:
        """Load again, on a signal; a broken checkpoint is named in the log, and what there was stays."""
        try:
            await self.load()
        except Exception:
            logger.exception("the checkpoints cannot be loaded: the old ones are kept")

    async def reload_for_client(self) -> dict[str, Any]:
        """The same for a client, who learns whether it worked.

        Raises:
            Problem: 409, it did not.
        """
        try:
            await self.load()
        except (ValueError, OSError, RuntimeError, MemoryError):
            logger.exception("the checkpoints cannot be loaded: the old ones are kept")
            raise Problem(
                409, "a checkpoint cannot be loaded, so the old ones are kept: the server's log says which and why"
            ) from None
        self.reloaded()
        return {"models": self.models.describe()}


def _foreign(headers: Headers) -> Problem | None:
    """A browser sends what any page asks it to send to this machine, and says from which page."""
    origin, host = headers.get("origin"), headers.get("host", "")
    if origin is None:
        return None
    scheme = origin.lower().partition("://")[0]
    if origin.lower() == f"{scheme}://{host.lower().removesuffix(_PORTS.get(scheme, ''))}":
        return None
    return Problem(
        403,
        f"the page is of another origin, {origin[:80]!r} and not {host[:80]!r}: open the page of this server, and let "
        "proxies before it pass the Host on",
    )


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0))
