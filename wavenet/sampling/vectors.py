"""What numba cannot say in Python, in LLVM's own words: a product that keeps its sums in registers, and two threads.

Left to itself, numba vectorises a loop over outputs, but loads and stores every sum again and again, and it knows no
bfloat16. Here a block of utterances times outputs stays in registers while the rows of a matrix pass by once, so that a
weight is loaded once for up to four utterances. LLVM turns the vectors into those of the processor, whatever they are.
"""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from wavenet.sampling.compilation import CONTRACT, compiled
from wavenet.sampling.packing import LANES, PANEL, Array

Counters = npt.NDArray[np.int64]


@compiled
def add_products(x: Array, weight: Array, matrix: int, y: Array, at: int, count: int) -> None:
    """y[u] += x[u] @ weight[matrix] for the first `count` utterances u.

    x is (U, in), weight (.., in * out) in panels with `matrix` counting over the leading axes, y (.., U, out) with
    u = 0 at element `at`. The sum of an output runs over the inputs in order, whatever `count` is.
    """
    rows, columns, size = x.shape[1], y.shape[y.ndim - 1], weight.shape[weight.ndim - 1]
    for column in range(0, columns, PANEL):
        panel, u, place = matrix * size + size * column // columns, 0, at + column
        if column + PANEL <= columns:
            while u + 4 <= count:
                _add_4x4(x, u * rows, rows, weight, panel, y, place + u * columns, columns)
                u += 4
            if u + 2 <= count:
                _add_2x4(x, u * rows, rows, weight, panel, y, place + u * columns, columns)
                u += 2
            if u < count:
                _add_1x4(x, u * rows, rows, weight, panel, y, place + u * columns, columns)
        else:
            while u < count:
                _add_1x2(x, u * rows, rows, weight, panel, y, place + u * columns, columns)
                u += 1


def _accumulator(utterances: int, vectors: int) -> Callable[..., None]:
    """An intrinsic for a block of y: `utterances` rows of `vectors` times LANES outputs."""

    def accumulate(
        typing: Any, x: Any, at_x: Any, rows: Any, weight: Any, at_w: Any, y: Any, at_y: Any, columns: Any
    ) -> Any:
        n = types.intp
        return types.void(x, n, n, weight, n, y, n, n), generate

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, at_x, rows, _, at_w, _, at_y, columns = arguments
        base_x, base_w, base_y = (
            context.make_array(signature.args[n])(context, builder, arguments[n]).data for n in (0, 3, 5)
        )
        vector = ir.VectorType(base_y.type.pointee, LANES)
        block = [(u, v) for u in range(utterances) for v in range(vectors)]
        places = [_plus(builder, at_y, columns, u, v * LANES) for u, v in block]
        with builder.goto_entry_block():
            sums = [builder.alloca(vector) for _ in places]
        for place, total in zip(places, sums, strict=True):
            builder.store(_load(builder, base_y, place), total)
        with cgutils.for_range(builder, rows) as row:
            weights = _weights(builder, base_w, at_w, row.index, vectors, vector)
            inputs = []
            for u in range(utterances):
                place = builder.add(_plus(builder, at_x, rows, u, 0), row.index)
                inputs.append(_splat(builder, builder.load(builder.gep(base_x, [place])), vector))
            for (u, v), total in zip(block, sums, strict=True):
                product = builder.fmul(inputs[u], weights[v], flags=CONTRACT)
                builder.store(builder.fadd(product, builder.load(total), flags=CONTRACT), total)
        for place, total in zip(places, sums, strict=True):
            pointer = builder.bitcast(builder.gep(base_y, [place]), vector.as_pointer())
            builder.store(builder.load(total), pointer, align=4)
        return context.get_dummy_value()

    return cast(Callable[..., None], intrinsic(accumulate))


def _plus(builder: Any, start: Any, stride: Any, times: int, offset: int) -> Any:
    """start + times stride + offset"""
    index = start.type
    return builder.add(start, builder.add(builder.mul(stride, ir.Constant(index, times)), ir.Constant(index, offset)))


def _load(builder: Any, base: Any, place: Any) -> Any:
    pointer = builder.gep(base, [place])
    vector = ir.VectorType(base.type.pointee, LANES)
    return builder.load(builder.bitcast(pointer, vector.as_pointer()), align=4)


def _weights(builder: Any, base: Any, panel: Any, row: Any, vectors: int, vector: Any) -> list[Any]:
    """The vectors of a row of a panel; words hold one vector in their lower halves, the next in their upper."""
    words = isinstance(base.type.pointee, ir.IntType)
    elements = [
        _load(builder, base, _plus(builder, panel, row, vectors * LANES // (1 + words), v * LANES))
        for v in range(vectors // (1 + words))
    ]
    if not words:
        return elements
    weights = []
    for word in elements:
        lower = builder.shl(word, ir.Constant(word.type, [16] * LANES))
        upper = builder.and_(word, ir.Constant(word.type, [0xFFFF0000] * LANES))
        weights += [builder.bitcast(half, vector) for half in (lower, upper)]
    return weights


def _splat(builder: Any, value: Any, vector: Any) -> Any:
    lane = ir.IntType(32)
    alone = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(lane, 0))
    return builder.shuffle_vector(alone, alone, ir.Constant(ir.VectorType(lane, LANES), [0] * LANES))


_add_4x4, _add_2x4, _add_1x4 = _accumulator(4, 4), _accumulator(2, 4), _accumulator(1, 4)
_add_1x2 = _accumulator(1, 2)  # the last columns of an odd number of WORDs


def _publish(typing: Any, counters: Any, at: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        builder.store_atomic(arguments[2], builder.gep(data, [arguments[1]]), "release", 8)
        return context.get_dummy_value()

    return types.void(counters, types.intp, types.int64), generate


def _observe(typing: Any, counters: Any, at: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.load_atomic(builder.gep(data, [arguments[1]]), "acquire", 8)

    return types.int64(counters, types.intp), generate


# publish(counters, at, value): counters[at] = value, after everything that this thread has written before.
# observe(counters, at): counters[at], before everything that this thread reads after.
publish = cast(Callable[[Counters, int, int], None], intrinsic(_publish))
observe = cast(Callable[[Counters, int], int], intrinsic(_observe))
