"""Chunks with carried state are one pass, whatever the sizes of the chunks."""

import pytest
import torch
from torch import Tensor

from distill.flows import FlowChain
from distill.stream import ChainStream, PackedChain, can_stream
from distill.student import Student, StudentConfig
from wavenet.kernels import use_backend

HOP = 8


@pytest.fixture(params=["narrow", "wide", "long", "two taps", "no mel", "speakers"])
def student(request: pytest.FixtureRequest) -> Student:
    """Flows with weights that matter, and a reach longer than a tile."""
    torch.manual_seed(0)
    sizes = {
        "narrow": {"flows": [2, 9], "residual": 16, "gate": 32},
        "wide": {"flows": [3], "residual": 48, "gate": 160},
        "long": {"flows": [2, 23, 10], "cycle": 3, "residual": 16, "gate": 32},  # flows of several stages
        "two taps": {"flows": [4, 1], "residual": 32, "gate": 32, "kernel": 2},
        "no mel": {"flows": [3], "residual": 16, "gate": 32, "n_mels": 0},
        "speakers": {"flows": [3], "residual": 16, "gate": 32, "n_mels": 0, "n_speakers": 2},
    }[request.param]
    student = Student(StudentConfig(**{"n_mels": 20, "hop_length": HOP, "context": 16, **sizes})).eval()
    for flow in student.chain.sequence:
        torch.nn.init.normal_(flow.network.last.weight, std=0.1)
    return student


def condition(student: Student, frames: int) -> Tensor | None:
    config = student.config
    mel = torch.randn(1, config.n_mels, frames) if config.n_mels else None
    speaker = torch.ones(1, dtype=torch.long) if config.n_speakers else None
    with torch.no_grad():
        return student.conditioner(mel, speaker)


def seen(stream: ChainStream, length: int, cond: Tensor | None) -> Tensor | None:
    """What the next samples of the stream read of a whole condition."""
    if cond is None or cond.shape[1] == 1:
        return None if cond is None else cond[0]
    return cond[0, torch.arange(*stream.window(length)).clamp(0, cond.shape[1] - 1)]


def one_pass(chain: FlowChain, z: Tensor, cond: Tensor | None) -> Tensor:
    with torch.no_grad(), use_backend("reference"):
        x: Tensor = chain(z[None], cond)[0][0]
    return x


@pytest.mark.parametrize("chunks", [[1, 2, 7, 8, 9], [127, 128, 129], [255, 256, 257], [3000], [1] * 20 + [999]])
def test_any_chunks_make_one_pass(student: Student, chunks: list[int]) -> None:
    total = -(-sum(chunks) // HOP) * HOP
    z, cond = 3 * torch.randn(total), condition(student, total // HOP)
    whole = one_pass(student.chain, z, cond)
    stream = ChainStream(PackedChain(student.chain.sequence, half=False))
    parts = [stream.advance(part, seen(stream, len(part), cond)) for part in z.split([*chunks, total - sum(chunks)])]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-5 * float(whole.abs().max()))


def speak(packed: PackedChain, z: Tensor, cond: Tensor | None) -> Tensor:
    stream = ChainStream(packed)
    return stream.advance(z, seen(stream, len(z), cond))


def test_threads_and_a_stream_beside_it_change_nothing(student: Student) -> None:
    z, cond = torch.randn(2, 100 * HOP), condition(student, 100)
    packed = PackedChain(student.chain.sequence, half=False)
    before, alone = torch.get_num_threads(), []
    try:
        for threads, row in ((1, z[0]), (3, z[1])):
            torch.set_num_threads(threads)
            alone.append(speak(packed, row, cond))
        torch.set_num_threads(2)
        beside = [ChainStream(packed), ChainStream(packed)]
        together = [stream.advance(row, seen(stream, len(row), cond)) for stream, row in zip(beside, z, strict=True)]
    finally:
        torch.set_num_threads(before)
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one, other)


def test_bfloat16_keeps_35_db(student: Student) -> None:
    z, cond = torch.randn(300 * HOP), condition(student, 300)
    whole = one_pass(student.chain, z, cond)
    error = speak(PackedChain(student.chain.sequence, half=True), z, cond) - whole
    assert 0 < error.square().mean() < 10**-3.5 * whole.square().mean()


@pytest.mark.parametrize("half", [False, True])
def test_generate_streams_where_it_can(student: Student, half: bool) -> None:
    assert can_stream(student.chain.sequence, torch.zeros(1))
    noise = torch.randn(2, 20 * HOP, dtype=torch.float64)
    mel = torch.randn(2, student.config.n_mels, 20) if student.config.n_mels else None
    speaker = torch.tensor([0, 1]) if student.config.n_speakers else None
    passes: list[int] = []
    handle = student.chain.register_forward_pre_hook(lambda *_: passes.append(1))
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        x = student.generate(mel, speaker, noise=noise)
    assert not passes
    with use_backend("reference"):
        expected = student.generate(mel, speaker, noise=noise)
    assert passes
    handle.remove()
    torch.testing.assert_close(x, expected, rtol=0, atol=(3e-2 if half else 1e-5) * float(expected.abs().max()))
    assert student.double().generate(None if mel is None else mel.double(), speaker, noise=noise).dtype is torch.float64


def test_other_sizes_and_types_are_left_to_torch() -> None:
    odd = Student(StudentConfig(flows=[2], residual=24, gate=32))
    assert not can_stream(odd.chain.sequence, torch.zeros(1))
    even = Student(StudentConfig(flows=[2], residual=32, gate=32))
    assert can_stream(even.chain.sequence, torch.zeros(1))
    assert not can_stream(even.chain.sequence, torch.zeros(1, dtype=torch.float64))
