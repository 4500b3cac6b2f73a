"""The bytes of a body -> the mel that is asked to be spoken, or a Problem that says what is wrong with them.

Nothing is unpickled or evaluated, and no more is decoded than may be spoken.
"""

import io
import json
import math
import re
import time
from array import array
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.audio import AudioError, TooLongError, decode_audio
from data.mel import MelError, check_mel
from serve.problems import Problem
from serve.vocoder import Vocoder

NPY_MAGIC = b"\x93NUMPY"
OPTIONS = {"seed", "temperature", "speaker"}
_LONGEST_HEADER = 10_000  # bytes, as numpy has it
_HEADER = re.compile(
    r"\{(?=.*'descr': *(?P<descr>'[^']{0,16}'|\[))(?=.*'fortran_order': *(?P<order>True|False))"
    r"(?=.*'shape': *\((?P<shape>[0-9, ]{0,80})\)).*\}\s*",
    re.DOTALL,
)

MOST_AT_ONCE = 2**17  # bytes of JSON: a frame, or all that is around the frames
_SPACE = rb"[ \t\r\n]{0,999}"
_MEL = re.compile(rb'"mel"' + _SPACE + b":" + _SPACE + rb"\[(?=" + _SPACE + rb"\[)")
_ROW = re.compile(_SPACE + rb"(\[[^\[\]]{0,%d}\])" % (MOST_AT_ONCE - 2) + _SPACE + rb"([,\]])")
_NO_FRAMES = "mel is no list of frames, each a list of numbers: send mel.T.tolist()"

Mel = NDArray[np.floating[Any]]


@dataclass
class Asked:
    """A mel (M, L) and what a JSON body says of how it be spoken."""

    mel: Mel
    options: dict[str, Any] = field(default_factory=dict)


def decode(content: bytes, media_type: str, vocoder: Vocoder, max_seconds: float) -> Asked:
    """The mel of a body, checked: one that `vocoder` can speak, and at most so long.

    Raises:
        Problem: 413 too long, 415 another type, 422 another content.
    """
    try:
        if media_type == "application/json":
            asked = _json(content, vocoder, max_seconds)
        elif media_type == "application/x-npy":
            asked = Asked(_npy(content, vocoder, max_seconds))
        elif media_type.startswith("audio/"):
            asked = Asked(_sound(content, vocoder, max_seconds))
        else:
            raise Problem(
                415, f"a body of the type {media_type!r} is not read: send audio/*, application/x-npy, application/json"
            )
        check_mel(asked.mel, vocoder.mel)
    except TooLongError as error:
        raise Problem(413, str(error)) from None
    except (MelError, AudioError) as error:
        raise Problem(422, str(error)) from None
    check_length(asked.mel.shape[1], vocoder, max_seconds)
    return asked


def check_length(frames: int, vocoder: Vocoder, max_seconds: float) -> None:
    """Raises Problem 413 if so many frames are more than may be spoken."""
    seconds = frames * vocoder.mel.hop_length / vocoder.sample_rate
    if seconds > max_seconds:
        raise Problem(
            413,
            f"an utterance of {seconds:.1f} s is longer than the limit of {max_seconds:g} s: cut it into shorter ones",
        )


def _npy(content: bytes, vocoder: Vocoder, max_seconds: float) -> Mel:
    """A .npy file by its specification (NumPy enhancement proposal 1): the header is checked before the data."""
    if content[:2] == b"PK":
        raise MelError("this is an archive of arrays (.npz), and one array is needed: save it with np.save")
    if content[:6] != NPY_MAGIC or len(content) < 12 or content[6] not in (1, 2, 3):
        raise MelError("this is no .npy file of version 1, 2 or 3: save the mel with np.save")
    width = 2 if content[6] == 1 else 4
    start = 8 + width + int.from_bytes(content[8 : 8 + width], "little")
    if start > min(len(content), _LONGEST_HEADER):
        raise MelError(
            f"the header of the .npy file ends at byte {start} of {len(content)}: save it again with np.save"
        )
    header = _HEADER.fullmatch(content[8 + width : start].decode("latin-1"))
    if header is None:
        raise MelError("the header of the .npy file does not say descr, fortran_order and shape: save it with np.save")
    dtype, shape = _dtype(header["descr"]), tuple(int(size) for size in header["shape"].split(",") if size.strip())
    if len(shape) == 3 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) != 2:
        raise MelError(f"a mel has the shape ({vocoder.mel.n_mels}, L), not {shape}")
    if shape[0] == vocoder.mel.n_mels:
        check_length(shape[1], vocoder, max_seconds)
    expected = math.prod(shape) * dtype.itemsize
    if len(content) - start != expected:
        raise MelError(
            f"the header of the .npy file promises {expected} bytes, and {len(content) - start} follow: send it again"
        )
    flat = np.frombuffer(content, dtype, offset=start)
    return flat.reshape(shape, order="F" if header["order"] == "True" else "C")


def _dtype(descr: str) -> np.dtype[Any]:
    if re.fullmatch(r"'[<>=][fiu][248]'|'\|[iub]1'", descr):
        return np.dtype(descr.strip("'"))  # `check_mel` refuses those that are not floating
    what = "objects, which would have to be unpickled" if "O" in descr else f"the type {descr}"
    raise MelError(f"the .npy file holds {what}: give natural logarithms as float32, mel.astype(np.float32)")


def _json(content: bytes, vocoder: Vocoder, max_seconds: float) -> Asked:
    """{"mel": L lists of M numbers, ...}, frame by frame: while it parses, the event loop cannot run."""
    rows, rest = None, content
    if begin := _MEL.search(content, 0, MOST_AT_ONCE):
        rows, end = _rows(content, begin.end(), vocoder, max_seconds)
        rest = content[: begin.start()] + b'"mel": []' + content[end:]
    if len(rest) > MOST_AT_ONCE:
        raise Problem(
            400,
            f"the body is not JSON of a mel: {len(rest)} bytes are no frames, of at most {MOST_AT_ONCE}: "
            "send {'mel': [[...], ...]}",
        )
    body = _parsed(rest)
    if not isinstance(body, dict) or "mel" not in body:
        raise MelError("the JSON is no object with a mel: send {'mel': [[80 numbers], ...], 'seed': 1}")
    unknown = sorted(body.keys() - OPTIONS - {"mel"})
    if unknown:
        raise MelError(f"the JSON has the unknown {unknown[0][:40]!r}: leave it out")
    if body.pop("mel") != [] or rows is None:
        raise MelError(_NO_FRAMES)
    return Asked(rows.T, body)


def _rows(content: bytes, start: int, vocoder: Vocoder, max_seconds: float) -> tuple[Mel, int]:
    """The frames (L, M) of the list whose first frame begins at a byte, and the byte after the list."""
    numbers, bands, frames = array("d"), vocoder.mel.n_mels, 0
    while row := _ROW.match(content, start):
        time.sleep(0)  # the event loop has its turn
        values, start, frames = _parsed(row[1]), row.end(), frames + 1
        if len(values) != bands:
            raise MelError(
                f"frame {frames} has {len(values)} numbers, and the model {bands} bands: send mel.T.tolist()"
            )
        if not all(type(number) in (int, float) for number in values):
            raise MelError("mel holds something other than numbers: send mel.T.tolist()")
        check_length(frames, vocoder, max_seconds)
        try:
            numbers.extend(values)
        except OverflowError:
            raise MelError("mel holds a number beyond all floats: send natural logarithms") from None
        if row[2] == b"]":
            return np.frombuffer(numbers).reshape(frames, bands), start
    raise MelError(_NO_FRAMES)


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content, parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        raise Problem(400, f"the body is not JSON ({str(error)[:100]}): send {{'mel': [[...], ...]}}") from None


def _constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _sound(content: bytes, vocoder: Vocoder, max_seconds: float) -> Mel:
    wav, rate = decode_audio(io.BytesIO(content), "the sound", max_seconds)
    return vocoder.mel_of(wav, rate).cpu().numpy()
