"""Clients that misbehave: each tells with what it was sent away, or leaves."""

import asyncio
import json
import pickle
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from recipes.serve_load.asking import LATER, STREAM, Wave, npy
from recipes.serve_load.server import Server

SOON = 30.0  # s until something has happened
SAMPLES = "samples"
END = json.dumps({"type": "end"})
_NARROW = 4096  # bytes that the system keeps for a client that does not read
Message: TypeAlias = str | bytes


def head(address: str) -> bytes:
    """Of a request for a mel."""
    return f"POST {address} HTTP/1.1\r\nHost: here\r\nContent-Type: application/x-npy\r\n".encode()


async def leaves(server: Server, request: bytes) -> str:
    """Resets the connection at the first sample; the status that came before it."""
    reader, writer = await asyncio.open_connection(*server.host)
    writer.write(request)
    status = await _status(reader)
    await reader.readuntil(b"\r\n\r\n")
    await reader.read(1)
    writer.transport.abort()
    return status


async def trickles(server: Server, address: str) -> str:
    """A byte a second."""
    reader, writer = await asyncio.open_connection(*server.host)
    writer.write(head(address) + b"Content-Length: 100\r\n\r\n")
    answer = asyncio.create_task(_status(reader))
    while not answer.done():
        writer.write(b"1")
        await asyncio.wait([answer], timeout=1)
    writer.transport.abort()
    return answer.result()


async def sends(server: Server, request: bytes) -> str:
    """Asks for an answer that may come before the request has been sent."""
    reader, writer = await asyncio.open_connection(*server.host)
    writer.write(request)
    status = await _status(reader)
    writer.transport.abort()
    return status


@contextmanager
def _narrow(server: Server) -> Iterator[socket.socket]:
    """A connection for which the system keeps little."""
    with socket.socket(socket.AF_INET) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _NARROW)
        connection.connect(server.host)
        connection.setblocking(False)
        yield connection


@asynccontextmanager
async def silent(server: Server, request: bytes) -> AsyncIterator[str]:
    """Reads the status, then stays and reads nothing."""
    loop = asyncio.get_running_loop()
    with _narrow(server) as connection:
        async with asyncio.timeout(SOON):
            await loop.sock_sendall(connection, request)
            begin = await loop.sock_recv(connection, len("HTTP/1.1 200"))
        yield begin.decode()[-3:]


@asynccontextmanager
async def silent_in_conversation(server: Server, *messages: Message) -> AsyncIterator[str]:
    """Reads the first message, then stays and reads nothing."""
    with _narrow(server) as connection:
        async with _conversation(server, messages, sock=connection, max_queue=1) as talk:
            yield await _hear(talk)


async def leaves_conversation(server: Server, *messages: Message) -> str:
    """Resets the connection at the first message."""
    async with _conversation(server, messages) as talk:
        return await _hear(talk)


async def converses(server: Server, *messages: Message) -> str:
    """Says this, then waits for the last message."""
    async with _conversation(server, messages) as talk:
        while (said := await _hear(talk)) == SAMPLES:
            pass
        return said


@asynccontextmanager
async def _conversation(
    server: Server, messages: tuple[Message, ...], **options: Any
) -> AsyncIterator[ClientConnection]:
    """One that is never closed properly."""
    address = f"ws://{server.host[0]}:{server.host[1]}{STREAM}"
    talk = await connect(address, max_size=None, compression=None, ping_interval=None, proxy=None, **options)
    try:
        with suppress(ConnectionClosed):  # what has come is still to be heard
            for message in messages:
                await talk.send(message)
        yield talk
    finally:
        talk.transport.abort()


async def _hear(talk: ClientConnection) -> str:
    """What kind of message comes next; of a problem, the status."""
    async with asyncio.timeout(SOON):
        said = await talk.recv()
    if isinstance(said, bytes):
        return SAMPLES
    told = json.loads(said)
    if told["type"] != "problem":
        return str(told["type"])
    late = told["status"] in LATER and "retry_after" not in told
    return f"{told['status']} without retry_after" if late else str(told["status"])


async def _status(reader: asyncio.StreamReader) -> str:
    async with asyncio.timeout(SOON):
        return (await reader.readuntil(b"\r\n")).split()[1].decode()


def start(**voice: object) -> str:
    """The first message."""
    return json.dumps({"type": "start", "format": "f32", **voice})


def frames(mel: Wave) -> bytes:
    """(M, n) -> a message"""
    return np.ascontiguousarray(mel.T, "<f4").tobytes()


def rude(begin: str, mel: Wave, large: Wave) -> list[tuple[str, tuple[Message, ...]]]:
    """Conversations, and the status with which each is broken off. Four of the large mels are too much."""
    said, holed = frames(mel), mel.copy()
    holed[0, 0] = np.nan
    return [
        ("408", ()),
        ("408", (begin,)),
        ("408", (begin, said)),
        ("400", (said,)),
        ("400", ("no json",)),
        ("400", (begin, "{}")),
        ("404", (start(model="nobody"),)),
        ("422", (start(seed=-1),)),
        ("422", (begin, said[:-1])),
        ("422", (begin, frames(holed))),
        ("422", (begin, END)),
        ("413", (begin, *[frames(large)] * 4)),
    ]


def broken(mel: Wave) -> list[bytes]:
    """No `.npy` files of a mel, though most begin like one."""
    whole, holed = npy(mel), mel.copy()
    holed[0, 0] = np.nan
    objects = np.lib.format.magic(1, 0) + b"\x76\x00"
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    objects += header.ljust(0x75) + b"\n" + pickle.dumps([Path("x")])
    return [
        b"",
        whole[:100],
        whole[:-1],
        whole + b"0",
        b"PK\x03\x04" + whole,
        objects,
        npy(holed),
        npy(mel.T),
        npy(mel[:-1]),
        npy(mel[:, :0]),
        npy(8.7 * mel - 100),
        npy(mel.astype(np.int32)),
        whole.replace(b"fortran_order", b"fortran_odour"),
        bytes(len(whole)),
    ]
