"""One pass by replay: sizes and windows change no sample, and a recording runs on its own tensors without Python.

Recordings are made on the CPU by a tape of torch's operators, and on a GPU, where there is one, by CUDA.
"""

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from distill.cuda_graph import EDGE, STEPS, GraphCache, Pass, bucket, windows
from distill.student import Student, StudentConfig
from wavenet.kernels import use_backend

HOP = 4
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU: CUDA graphs cannot be recorded")


class Tape(TorchDispatchMode):
    """Records a pass as CUDA does: every operator with the tensors it read and wrote, and no Python between them."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.steps.append((func, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        for func, args, kwargs, result in self.steps:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(old, Tensor):
                    old.copy_(new)


class Recorder:
    """Of tapes; counts them."""

    def __init__(self) -> None:
        self.tapes: list[Tape] = []

    def __call__(self, run: Pass) -> Pass:
        run()
        with Tape() as tape:
            run()
        self.tapes.append(tape)
        return tape.replay


def make_student(**sizes: Any) -> Student:
    torch.manual_seed(0)
    small = {"flows": [2, 3], "residual": 8, "gate": 8, "context": 6, "n_mels": 5, "hop_length": HOP}
    student = Student(StudentConfig(**{**small, **sizes})).double().eval()
    for flow in student.chain.sequence:
        torch.nn.init.normal_(flow.network.last.weight, std=0.3)
    return student


def distance(ours: Tensor, right: Tensor) -> float:
    """The largest, in units of the peak."""
    return float((ours - right).abs().max() / right.abs().max())


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def speak(recorder: Recorder) -> Callable[..., Tensor]:
    """`Student.generate` as on a GPU, by recordings of one cache."""
    cache = GraphCache(3, lambda: recorder)

    def run(
        student: Student, mel: Tensor | None, z: Tensor, speaker: Tensor | None = None, block: int = 2**18
    ) -> Tensor:
        x = torch.full_like(z, math.nan)
        reach = student.receptive_field
        with use_backend("reference"):
            cache.generate(
                student.chain,
                lambda start, stop: z[:, start:stop],
                lambda start, stop: student.conditioner.window(mel, speaker, start, stop),
                x, HOP, reach, block,
            )  # fmt: skip
        return x

    return run


@given(frames=st.integers(1, 100_000))
def test_a_bucket_holds_the_frames_and_wastes_less_than_an_eighth(frames: int) -> None:
    size = bucket(frames)
    assert frames <= size < frames * (1 + 1 / STEPS)
    assert bucket(size) == size


def test_there_are_few_buckets() -> None:
    assert len({bucket(frames) for frames in range(1, 1025)}) == 2 * STEPS + 6 * STEPS


@given(frames=st.integers(0, 300), reach=st.integers(0, 40), block=st.integers(1, 100))
def test_windows_add_every_frame_once_and_begin_a_reach_early(frames: int, reach: int, block: int) -> None:
    size, starts = windows(frames, reach, block)
    done = 0
    for start in starts:
        assert start == 0 or done - start == reach  # what it computes but does not add
        assert done < min(start + size, frames)
        done = min(start + size, frames)
    assert done == frames
    assert frames == 0 or size <= reach + block


@settings(max_examples=25, deadline=None)
@given(frames=st.integers(1, 60), batch=st.integers(1, 2), block=st.integers(1, 100))
def test_padding_and_windows_change_no_sample(frames: int, batch: int, block: int) -> None:
    student, cache = make_student(), GraphCache(3, Recorder)
    mel, z = torch.randn(batch, 5, frames).double(), torch.randn(batch, frames * HOP).double()
    x = torch.full_like(z, math.nan)
    with use_backend("reference"):
        whole = student.generate(mel, noise=z)
        for _ in range(2):  # the second time over what the first left in the tensors
            cache.generate(
                student.chain,
                lambda start, stop: z[:, start:stop],
                lambda start, stop: student.conditioner.window(mel, None, start, stop),
                x, HOP, student.receptive_field, block,
            )  # fmt: skip
            torch.testing.assert_close(x, whole, rtol=1e-10, atol=1e-12)


def test_a_padded_condition_is_the_condition_and_a_padded_mel_is_not() -> None:
    """Beyond the end lies the condition's edge; an edge of the mel would reach back through the convolutions."""
    student = make_student()
    mel = torch.randn(1, 5, 7).double()
    cond = student.conditioner(mel, None)
    window = student.conditioner.window(mel, None, -EDGE, 9 + EDGE)
    assert torch.equal(window[:, EDGE : EDGE + 7], cond)
    assert torch.equal(window[:, 7 + EDGE :], cond[:, -1:].expand(-1, 3, -1))
    padded = student.conditioner(torch.nn.functional.pad(mel, (0, 3), mode="replicate"), None)
    assert not torch.allclose(padded[:, 7], cond[:, -1])


@pytest.mark.parametrize("sizes", [{"n_mels": 0}, {"n_mels": 0, "n_speakers": 2}, {"n_speakers": 2}], ids=str)
def test_any_condition_may_be_absent(speak: Callable[..., Tensor], sizes: dict[str, int]) -> None:
    student = make_student(**sizes)
    mel = torch.randn(2, 5, 11).double() if "n_mels" not in sizes else None
    speaker = torch.tensor([1, 0]) if "n_speakers" in sizes else None
    z = torch.randn(2, 11 * HOP - (mel is None)).double()  # without a mel any length will do
    with use_backend("reference"):
        whole = student.generate(mel, speaker, noise=z)
    torch.testing.assert_close(speak(student, mel, z, speaker, block=20), whole)


def test_lengths_of_one_bucket_share_a_recording_and_old_ones_are_dropped(
    speak: Callable[..., Tensor], recorder: Recorder
) -> None:
    student = make_student()
    for frames, recordings in ((35, 1), (36, 1), (33, 1), (37, 2), (20, 3), (36, 3), (10, 4), (36, 4), (37, 5)):
        speak(student, torch.randn(1, 5, frames).double(), torch.randn(1, frames * HOP).double())
        assert len(recorder.tapes) == recordings


def test_all_windows_of_a_long_utterance_are_replays_of_one_recording(
    speak: Callable[..., Tensor], recorder: Recorder
) -> None:
    speak(make_student(), torch.randn(1, 5, 90).double(), torch.randn(1, 90 * HOP).double(), block=10 * HOP)
    assert len(recorder.tapes) == 1


@pytest.mark.parametrize("autocast", [False, True])
def test_a_recording_follows_its_weights(speak: Callable[..., Tensor], recorder: Recorder, autocast: bool) -> None:
    """Changed in place, they are read anew, casts included; moved, they are recorded anew."""
    student = make_student().float()
    mel, z = torch.randn(1, 5, 12), torch.randn(1, 12 * HOP)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        before = speak(student, mel, z)
        with torch.no_grad():
            for weight in student.chain.parameters():
                weight.mul_(1.5)
        after = speak(student, mel, z)
        with use_backend("reference"):
            expected = student.generate(mel, noise=z)
        off = 1e-2 if autocast else 1e-5  # of the peak
        assert distance(after, expected) < off < distance(before, expected) / 3
        assert len(recorder.tapes) == 1
    for weight in student.chain.parameters():
        weight.data = 1.1 * weight.data
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), use_backend("reference"):
        assert distance(speak(student, mel, z), student.generate(mel, noise=z)) < off
    assert len(recorder.tapes) == 2


def test_precisions_have_recordings_of_their_own(speak: Callable[..., Tensor], recorder: Recorder) -> None:
    student = make_student().float()
    mel, z = torch.randn(1, 5, 12), torch.randn(1, 12 * HOP)
    exact = speak(student, mel, z)
    with torch.autocast("cpu", torch.bfloat16):
        half = speak(student, mel, z)
    assert len(recorder.tapes) == 2
    assert not torch.equal(exact, half)
    assert torch.equal(speak(student, mel, z), exact)


def test_a_student_with_recordings_is_copied_and_pickled_without_them() -> None:
    cache = GraphCache(3, Recorder)
    student = make_student()
    student._graphs = cache
    x, cond = torch.empty(1, 2 * HOP).double(), torch.zeros(1, 2 + 2 * EDGE, 6).double()
    with use_backend("reference"):
        cache.generate(student.chain, lambda *_: x, lambda *_: cond, x, HOP, student.receptive_field, 100)
    assert len(cache) == 1
    for other in (copy.deepcopy(student), pickle.loads(pickle.dumps(student))):
        assert len(other._graphs) == 0
        assert other._graphs._settings == cache._settings


@needs_gpu
@pytest.mark.parametrize("frames", [1, 86, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_gpu_replays_what_the_reference_computes(frames: int, dtype: torch.dtype) -> None:
    student = make_student(flows=[10, 10], residual=64, gate=128, hop_length=256).float().cuda()
    z = [torch.randn(2, frames * 256, device="cuda") for _ in range(2)]
    mels = [torch.randn(2, 5, frames, device="cuda") for _ in range(2)]
    with torch.autocast("cuda", dtype, enabled=dtype is not torch.float32):
        for mel, noise in zip(mels, z, strict=True):
            ours = student.generate(mel, noise=noise, block=40 * 256)
            with use_backend("reference"):
                right = student.generate(mel, noise=noise)
            assert distance(ours, right) < (1e-4 if dtype is torch.float32 else 3e-2)
    assert len(student._graphs) == 1


@needs_gpu
def test_a_gpus_recording_follows_weights_that_change_in_place() -> None:
    student = make_student(residual=32, gate=64).float().cuda()
    mel, noise = torch.randn(1, 5, 20, device="cuda"), torch.randn(1, 20 * HOP, device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        before = student.generate(mel, noise=noise)
        with torch.no_grad():
            for weight in student.chain.parameters():
                weight.mul_(1.5)
        after = student.generate(mel, noise=noise)
        with use_backend("reference"):
            right = student.generate(mel, noise=noise)
    assert distance(after, right) < 3e-2 < distance(before, right)
    assert len(student._graphs) == 1


@needs_gpu
@pytest.mark.parametrize("autocast", [False, True])
def test_a_gpus_recording_of_weights_that_moved_is_made_anew(autocast: bool) -> None:
    """What lay in their place meanwhile is not read: neither the old weights nor what overwrites them."""
    student = make_student(residual=32, gate=64).float().cuda()
    mel, noise = torch.randn(1, 5, 20, device="cuda"), torch.randn(1, 20 * HOP, device="cuda")
    with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        before = student.generate(mel, noise=noise)
        (recording,) = student._graphs._recordings.values()
        old = [weight.data for weight in student.chain.parameters()]
        for weight in student.chain.parameters():
            weight.data = 1.5 * weight.data
        for tensor in old:
            tensor.fill_(torch.nan)
        after = student.generate(mel, noise=noise)
        with use_backend("reference"):
            right = student.generate(mel, noise=noise)
    off = 3e-2 if autocast else 1e-4
    assert distance(after, right) < off < distance(before, right)
    assert [one is recording for one in student._graphs._recordings.values()] == [False]
    student.cpu()
    student.cuda()  # whole: its weights lie where the allocator puts them
    with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        assert distance(student.generate(mel, noise=noise), right) < off
