"""numba for this folder: how its functions are compiled, and when machine code on the disk may be used again."""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar, cast

from numba import njit

Function = TypeVar("Function", bound=Callable[..., object])

CONTRACT = ("contract",)  # a product and a sum may become one instruction


def stamp(folder: Path) -> str:
    """Of the sources in a folder: their names and what is in them."""
    digest = sha256()
    for path in sorted(folder.glob("*.py")):
        digest.update(f"{path.name} {sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


SOURCES = stamp(Path(__file__).parent)


def compiled(function: Function) -> Function:
    """Sums keep their order; the lock of Python is not held.

    numba's cache looks at the file of a function alone: here at all those whose code goes into it.
    """
    dispatcher: Any = njit(cache=True, nogil=True, error_model="numpy", fastmath=set(CONTRACT))(function)
    cache = dispatcher._cache
    cache._cache_file = type(cache._cache_file)(cache.cache_path, cache._impl.filename_base, SOURCES)
    return cast(Function, dispatcher)
