"""A student's pass on a GPU as one replay of a CUDA graph: hundreds of launches at the price of one.

A graph is recorded for tensors of one size. So the frames of an utterance are rounded up to a few sizes, and what is
longer than the largest is made in windows of that size, each of which begins a receptive field early. Neither changes a
sample: the flows are causal, and beyond both ends of an utterance the condition repeats its edge, as it does where
nothing is added.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from distill.flows import FlowChain

STEPS = 8  # sizes between two powers of two: less than an eighth of a pass is padding
EDGE = 1  # frames of the condition beyond each end of a window, for interpolation

Pass = Callable[[], None]


def bucket(frames: int) -> int:
    """The least size that holds so many frames: up to 2 STEPS each number is one, then multiples of 2, 4, 8, .."""
    step = max(1, 2 ** ((frames - 1).bit_length() - 1) // STEPS) if frames > 1 else 1
    return -(-frames // step) * step


def windows(frames: int, reach: int, block: int) -> tuple[int, range]:
    """The size of every window, in frames, and where they begin; each but the first has `reach` frames of context.

    Args:
        frames: of the utterance.
        block: that a window adds at most to what is done.
    """
    size = min(bucket(frames), reach + block)
    return size, range(min(frames, 1)) if frames <= size else range(0, frames - reach, block)


class CudaRecorder:
    """Records passes that run one at a time, hence in the same memory."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, run: Pass) -> Pass:
        """Runs once, and returns what runs it again, on the same tensors, without Python."""
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            run()  # what is compiled or loaded on first use cannot be recorded
        torch.cuda.current_stream().wait_stream(side)
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            run()
        return graph.replay


@dataclass
class Recording:
    """A recorded pass: noise (B, T), condition (B, L, context) and excitation (B, T, E) in, waveform (B, T) out, always
    the same tensors.
    """

    z: Tensor
    cond: Tensor | None
    excitation: Tensor | None
    x: Tensor
    replay: Pass


class GraphCache:
    """The recorded passes of one student, the most recently used ones.

    One thread at a time computes; all of them on one stream.

    Args:
        most: recordings that are kept.
        make_recorder: of `CudaRecorder`s, or of what records on another device.
    """

    def __init__(self, most: int = 16, make_recorder: Callable[[], Callable[[Pass], Pass]] = CudaRecorder) -> None:
        self._settings = most, make_recorder
        self._recordings: OrderedDict[tuple[object, ...], Recording] = OrderedDict()
        self._weights: list[int] = []
        self._record = make_recorder()
        self._lock = Lock()

    def __reduce__(self) -> tuple[type["GraphCache"], tuple[Any, ...]]:
        """A copy, or a pickle, begins without recordings."""
        return GraphCache, self._settings

    def __len__(self) -> int:
        return len(self._recordings)

    @torch.no_grad()
    def generate(
        self,
        chain: FlowChain,
        draw: Callable[[int, int], Tensor],
        condition: Callable[[int, int], Tensor | None],
        x: Tensor,
        hop: int,
        reach: int,
        block: int,
        excite: Callable[[int, int], Tensor] | None = None,
    ) -> None:
        """Fills x (B, T) with what the chain makes of noise and condition.

        Args:
            draw: noise of samples start .. stop, (B, stop - start).
            condition: frames start .. stop, (B, stop - start, context), the edges repeated beyond the ends; or one
                frame if it is constant in time; or None.
            hop: samples per frame.
            reach: samples of noise before t that x[t] depends on.
            block: samples, about, that a window adds to what is done.
            excite: excitation of samples start .. stop, (B, stop - start, E), also beyond the end, if flows read one.
        """
        T = x.shape[1]
        context = -(-reach // hop)
        size, starts = windows(-(-T // hop), context, max(1, block // hop))
        # The casts of weights that autocast caches are freed when it ends; a recording would go on reading them.
        autocast = torch.autocast(x.device.type, enabled=torch.is_autocast_enabled(x.device.type), cache_enabled=False)
        with self._lock, autocast:
            for start in starts:
                begin, stop = start * hop, min(T, (start + size) * hop)
                cond = condition(start - EDGE, start + size + EDGE)
                excitation = None if excite is None else excite(begin, begin + size * hop)
                recording = self._recording(chain, x, size * hop, cond, excitation, hop)
                recording.z[:, : stop - begin] = draw(begin, stop)
                if recording.cond is not None and cond is not None:
                    recording.cond.copy_(cond)
                if recording.excitation is not None and excitation is not None:
                    recording.excitation.copy_(excitation)
                recording.replay()
                known = context * hop if start else 0
                x[:, begin + known : stop] = recording.x[:, known : stop - begin]

    def _recording(
        self, chain: FlowChain, like: Tensor, length: int, cond: Tensor | None, excitation: Tensor | None, hop: int
    ) -> Recording:
        """The one for these sizes and types, recorded now if there is none."""
        weights = [weight.data_ptr() for weight in chain.parameters()]
        if weights != self._weights:  # a recording reads them where they were
            self._recordings.clear()
            self._weights = weights
        device = like.device.type
        precision = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
        key = (len(like), length, like.dtype, like.device, precision, cond is not None and (cond.shape, cond.dtype))
        if key not in self._recordings:
            while len(self._recordings) >= self._settings[0]:
                self._recordings.popitem(last=False)
            self._recordings[key] = self._new(chain, like, length, cond, excitation, hop)
        self._recordings.move_to_end(key)
        return self._recordings[key]

    def _new(
        self, chain: FlowChain, like: Tensor, length: int, cond: Tensor | None, excitation: Tensor | None, hop: int
    ) -> Recording:
        z, x = like.new_zeros(len(like), length), like.new_empty(len(like), length)
        cond, excitation = (None if given is None else given.clone() for given in (cond, excitation))

        def run() -> None:
            x.copy_(chain(z, cond, EDGE * hop, None, excitation)[0])

        with torch.cuda.device(like.get_device()):  # nothing on a CPU, whose number is -1
            return Recording(z, cond, excitation, x, self._record(run))
