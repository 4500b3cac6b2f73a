"""Containers of sound: how many bytes of samples a file's header promises, and how many are there.

libsndfile reads a truncated WAV, RF64, W64, AIFF, AU, CAF or OGG without a word; of an MP3 it guesses the length from
the first frame, where no Xing or Info header states it, and reads so much of it.
"""

import os
import re
from dataclasses import dataclass
from typing import BinaryIO, Literal

UNKNOWN_LENGTH = 0x7FFFF000  # programs that write a WAV into a pipe leave this much, or more, in its header
UNKNOWN_LENGTH_64 = 1 << 62  # the same of sizes in 64 bits


@dataclass(frozen=True)
class Chunks:
    """A file of chunks: a name, a size, and so many bytes."""

    order: Literal["little", "big"]
    samples: bytes  # how the name of the chunk of samples begins
    first: int = 12  # where the chunks begin
    name: int = 4  # bytes of a name, as of a size
    size: int = 4
    whole: bool = False  # the size counts name and size, too
    align: int = 2  # each chunk starts at a multiple of so many bytes

    @property
    def unknown(self) -> int:
        """The least size that says "unknown"."""
        return UNKNOWN_LENGTH if self.size == 4 else UNKNOWN_LENGTH_64


RIFF = Chunks("little", b"data")
CONTAINERS = {  # the first four bytes, and those from the ninth on
    (b"RIFF", b"WAVE"): RIFF,
    (b"RF64", b"WAVE"): RIFF,
    (b"RIFX", b"WAVE"): Chunks("big", b"data"),
    (b"FORM", b"AIFF"): Chunks("big", b"SSND"),
    (b"FORM", b"AIFC"): Chunks("big", b"SSND"),
    (b"riff", b"\xa5\xd6\x28\xdb"): Chunks("little", b"data", 40, 16, 8, whole=True, align=8),
    (b"caff", b"desc"): Chunks("big", b"data", 8, 4, 8, align=1),
}
AU: dict[bytes, Literal["little", "big"]] = {b".snd": "big", b"dns.": "little"}


PAGE, MOST_OF_A_PAGE = 27, 27 + 255 + 255 * 255  # bytes of OGG: the head of a page, and the longest page
LAST = 4  # flag of the last page of a stream
MP3_TAG = re.compile(rb"(?:Xing|Info)\0\0\0(.)", re.DOTALL)  # its flags; 1: the number of frames follows


class MissingPartError(ValueError):
    """A file that ends before a part that it must have, which the message names."""


def sample_bytes(file: BinaryIO) -> tuple[int, int] | None:
    """Bytes of samples that the header promises, and that follow it; None where it does not say.

    Raises:
        MissingPartError: chunks, and none of samples; pages of OGG, and no last one.
    """
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(12)
    if head[:4] in AU:
        order = AU[head[:4]]
        size = int.from_bytes(head[8:], order)
        return None if size >= UNKNOWN_LENGTH else (size, end - int.from_bytes(head[4:8], order))
    if head[:4] == b"OggS":
        _check_pages(file, end)
        return None
    chunks = CONTAINERS.get((head[:4], head[8:]))
    return None if chunks is None else _in_chunks(file, end, chunks)


def _in_chunks(file: BinaryIO, end: int, chunks: Chunks) -> tuple[int, int] | None:
    header, unknown, long_size = chunks.name + chunks.size, chunks.unknown, None
    file.seek(chunks.first)
    while len(head := file.read(header)) == header:
        size, begin = int.from_bytes(head[chunks.name :], chunks.order), file.tell()
        size = max(0, size - header) if chunks.whole else size
        if head.startswith(chunks.samples):
            if long_size is not None and size == 0xFFFFFFFF:
                size, unknown = long_size, UNKNOWN_LENGTH_64
            return None if size >= unknown else (size, end - begin)
        if head.startswith(b"ds64"):  # of RF64: the size of the file, then that of the samples
            long_size = int.from_bytes(file.read(16)[8:], "little")
        after = min(end, begin + size)
        file.seek(after + -after % chunks.align)
    raise MissingPartError(f"a chunk {chunks.samples.decode()!r}")


def _check_pages(file: BinaryIO, end: int) -> None:
    """Pages of OGG promise no length, but the last one says that it is the last."""
    reach, tail = MOST_OF_A_PAGE, b""
    while b"OggS" not in tail:  # bytes of something else follow the pages; the file begins with one
        file.seek(max(0, end - reach))
        tail = file.read()
        reach *= 2
    page = tail[tail.rfind(b"OggS") :]
    if len(page) >= PAGE and page[5] & LAST:
        segments = page[PAGE - 1]
        if len(page) >= PAGE + segments + sum(page[PAGE : PAGE + segments]):
            return
    raise MissingPartError("a last page")


def states_frames(file: BinaryIO) -> bool:
    """Whether the first frame of an MP3 says how many there are."""
    file.seek(0)
    head, begin = file.read(10), 0
    if head.startswith(b"ID3"):
        begin = 10 + sum(byte << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=False))
    file.seek(begin)
    tag = MP3_TAG.search(file.read(4096))
    return tag is not None and bool(tag[1][0] & 1)
