import copy
from functools import partial

import numpy as np
import pytest
import torch

from wavenet.distributions import OutputKind
from wavenet.network import StackConfig
from wavenet.sampling import numba_backend, reference
from wavenet.sampling.generate import Backend, generate, parameters
from wavenet.sampling.packing import Weights

KINDS, BACKENDS = list(OutputKind), list(Backend)
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-11}
SHAPES = {
    "kernel 2": StackConfig(5, 3, 2, 8, 12, 10),
    "no skip connections": StackConfig(4, 4, 3, 8, 12, 0),
    "awkward widths": StackConfig(4, 2, 3, 7, 10, 5),
    "one layer": StackConfig(1, 1, 3, 8, 12, 10),
}


def mel_like(batch, frames, dtype=torch.float64):
    return (torch.randn(batch, 5, frames, generator=torch.Generator().manual_seed(2)) * 2.5 - 5).to(dtype)


def waveform(batch, length, dtype=torch.float64):
    return (0.3 * torch.randn(batch, length, generator=torch.Generator().manual_seed(1))).to(dtype)


def pcm(x):
    return (x * 32768).round().clamp(-32768, 32767).long()


@torch.no_grad()
def assert_sequential_parameters_are_those_of_the_whole_pass(model, backend, length, batch=1):
    dtype, hop = model.network.first.weight.dtype, model.config.hop_length
    frames = -(-length // hop)
    x, mel = waveform(batch, frames * hop, dtype), mel_like(batch, frames, dtype)
    speaker = torch.arange(batch) % 2
    whole = model(x, mel, speaker)[:, :length]
    steps = parameters(model, x[:, :length], mel, speaker, backend)
    assert steps.dtype == dtype
    torch.testing.assert_close(steps, whole, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * whole.abs().max())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("length", [1, 2, 49, 50, 51, 99, 101, 127, 128, 129])
def test_incremental_is_full_at_awkward_lengths(make_wavenet, tiny, backend, dtype, length):
    """50 samples make a frame, 127 the receptive field."""
    model = make_wavenet(OutputKind.mol, tiny, hop_length=50, n_speakers=2, dtype=dtype)
    assert_sequential_parameters_are_those_of_the_whole_pass(model, backend, length)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hop", [1, 7, 8])
def test_incremental_is_full_for_every_output_and_a_batch(make_wavenet, backend, kind, hop):
    model = make_wavenet(kind, hop_length=hop, n_speakers=2, dtype=torch.float32)
    assert_sequential_parameters_are_those_of_the_whole_pass(model, backend, 60, batch=3)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_incremental_is_full_for_every_shape_of_the_stack(make_wavenet, backend, shape):
    assert_sequential_parameters_are_those_of_the_whole_pass(make_wavenet(stack=SHAPES[shape]), backend, 45)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("n_mels", "n_speakers"), [(0, 0), (5, 0), (0, 2), (5, 2)])
def test_incremental_is_full_for_every_condition(make_wavenet, backend, n_mels, n_speakers):
    model = make_wavenet(n_mels=n_mels, n_speakers=n_speakers)
    assert_sequential_parameters_are_those_of_the_whole_pass(model, backend, 45, batch=2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_histories_beyond_the_range_are_read_as_the_whole_pass_reads_them(make_wavenet, backend):
    """A student's samples are not clipped before the teacher reads them."""
    model = make_wavenet(OutputKind.mulaw)
    x, mel = 3 * waveform(1, 40), mel_like(1, 5)
    assert x.abs().max() > 1
    torch.testing.assert_close(parameters(model, x, mel, None, backend), model(x, mel).detach())


@pytest.mark.parametrize("kind", KINDS)
def test_2000_samples_running_free_agree_exactly_between_numba_and_the_reference(make_wavenet, tiny, kind):
    model = make_wavenet(kind, tiny, hop_length=256)
    mel = mel_like(1, 8)
    cached, compiled = (generate(model, mel, length=2000, backend=b) for b in (Backend.cached, Backend.numba))
    assert cached.std() > 0.01
    assert torch.equal(pcm(cached), pcm(compiled))
    if kind is not OutputKind.gaussian:  # whose samples are not rounded
        assert torch.equal(cached, compiled)


@pytest.mark.parametrize("kind", [OutputKind.mol, OutputKind.gaussian])
@torch.no_grad()
def test_numba_floors_the_scales_as_the_reference_does(make_wavenet, kind):
    model = make_wavenet(kind)
    model.network.last.bias[-3 if kind is OutputKind.mol else -1 :] = -30.0
    cached, compiled = (generate(model, mel_like(1, 5), backend=b) for b in (Backend.cached, Backend.numba))
    torch.testing.assert_close(cached, compiled)


@pytest.mark.parametrize("kind", KINDS)
def test_the_naive_sampler_and_the_cached_one_agree_exactly(make_wavenet, tiny, kind):
    model = make_wavenet(kind, tiny, hop_length=50)
    mel = mel_like(2, 6)
    naive, cached = (generate(model, mel, backend=b) for b in (Backend.naive, Backend.cached))
    assert torch.equal(pcm(naive), pcm(cached))


@pytest.mark.parametrize("backend", BACKENDS)
def test_samples_are_those_that_the_whole_pass_predicts_from_them(make_wavenet, backend):
    """Generation is consistent with teacher forcing: its own output as history gives the same samples again."""
    model = make_wavenet(OutputKind.mol)
    mel, noise = mel_like(1, 6), model.distribution.noise(5, 0, 48)[None]
    x = generate(model, mel, noise=noise, backend=backend)
    assert torch.equal(model.distribution.sample(model(x, mel), noise), x)


def sampler(model, backend, mel):
    """A function (noise, state) -> x of a backend, and its state at the start."""
    cond = model.conditioner(mel, None)
    if backend is Backend.numba:
        packed = numba_backend.pack(model, cond)
        return partial(numba_backend.sample, packed), numba_backend.initial_state(packed, len(mel))
    if backend is Backend.cached:
        frames = model.network.project(cond)
        return partial(reference.sample, model, frames), reference.initial_state(model, len(mel))
    return partial(reference.sample_naively, model, cond), reference.History(mel.new_zeros(len(mel), 0))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cut", [1, 7, 8, 15, 16, 39])
def test_generation_in_two_pieces_is_generation_at_once(make_wavenet, backend, kind, cut):
    model = make_wavenet(kind)
    sample, state = sampler(model, backend, mel_like(2, 5))
    noise = torch.stack([model.distribution.noise(seed, 0, 40) for seed in (0, 1)])
    whole = sample(noise, copy.deepcopy(state))
    pieces = [sample(noise[:, :cut], state), sample(noise[:, cut:], state)]
    assert torch.equal(torch.cat(pieces, dim=1), whole)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_copied_state_branches_off(make_wavenet, backend):
    model = make_wavenet()
    sample, state = sampler(model, backend, mel_like(1, 5))
    noise = model.distribution.noise(0, 0, 40)[None]
    sample(noise[:, :20], state)
    branch = copy.deepcopy(state)
    assert torch.equal(sample(noise[:, 20:], state), sample(noise[:, 20:], branch))


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_utterance_of_a_batch_can_be_made_again_alone_by_its_seed(make_wavenet, backend):
    model = make_wavenet(OutputKind.mol, n_speakers=2)
    mel, speaker = mel_like(3, 5), torch.tensor([0, 1, 0])
    together = generate(model, mel, speaker, seed=10, backend=backend)
    assert together.shape == (3, 40)
    for b in range(3):
        alone = generate(model, mel[b : b + 1], speaker[b : b + 1], seed=10 + b, backend=backend)
        assert torch.equal(pcm(alone[0]), pcm(together[b]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_samples_are_a_function_of_mel_speaker_and_noise(make_wavenet, backend):
    model = make_wavenet(n_speakers=2)
    mel, speaker = mel_like(1, 5), torch.tensor([0])
    x = generate(model, mel, speaker, seed=3, backend=backend)
    torch.manual_seed(99)
    assert torch.equal(generate(model, mel, speaker, seed=3, backend=backend), x)
    noise = model.distribution.noise(3, 0, 40)[None]
    assert torch.equal(generate(model, mel, speaker, noise, backend=backend), x)
    assert not torch.equal(generate(model, mel, speaker, seed=4, backend=backend), x)
    assert not torch.equal(generate(model, mel + 1, speaker, seed=3, backend=backend), x)
    assert not torch.equal(generate(model, mel, 1 - speaker, seed=3, backend=backend), x)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_shorter_length_is_a_prefix(make_wavenet, backend):
    model, mel = make_wavenet(OutputKind.mol), mel_like(1, 5)
    whole = generate(model, mel, backend=backend)
    assert torch.equal(generate(model, mel, length=13, backend=backend), whole[:, :13])
    noise = model.distribution.noise(0, 0, 21)[None]
    assert torch.equal(generate(model, mel, noise=noise, backend=backend), whole[:, :21])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_model_without_condition_babbles_for_as_long_as_asked(make_wavenet, backend, dtype):
    x = generate(make_wavenet(n_mels=0, dtype=dtype), length=30, backend=backend)
    assert x.shape == (1, 30) and x.dtype == dtype and not x.requires_grad


def test_longer_than_a_chunk_of_the_progress_bar_is_one_sound(make_wavenet, capsys):
    model = make_wavenet(OutputKind.mol, n_mels=0)
    quiet = generate(model, length=2100)
    assert capsys.readouterr().err == ""
    assert torch.equal(generate(model, length=2100, progress=True), quiet)
    assert "2.10k/2.10k" in capsys.readouterr().err
    assert torch.equal(generate(model, length=2100, backend=Backend.cached), quiet)


def test_the_numba_backend_uses_threads_without_changing_the_result(make_wavenet):
    model, mel = make_wavenet(OutputKind.mol), mel_like(4, 5)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(generate(model, mel))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"mel": torch.zeros(5, 4)}, r"mel has the shape \(5, 4\), but this model reads \(B, 5, L\)"),
        ({"mel": torch.zeros(1, 4, 5)}, r"mel has the shape \(1, 4, 5\), but this model reads \(B, 5, L\)"),
        ({"mel": torch.zeros(1, 5, 0)}, "length is 0, but must be at least 1"),
        ({"mel": torch.zeros(1, 5, 4), "length": 0}, "length is 0, but must be at least 1"),
        ({"mel": torch.zeros(1, 5, 4), "length": 33}, "length is 33, but the mel covers 32 samples"),
        ({"mel": torch.zeros(2, 5, 4)}, "batch sizes differ: {'mel': 2, 'speaker': 1}"),
        ({"mel": torch.zeros(0, 5, 4), "speaker": torch.zeros(0, dtype=torch.int64)}, "speaker have a batch of 0, but"),
        ({"length": 8}, "none was given: pass mel"),
        ({}, "length is not given, and there is neither mel nor noise"),
        ({"mel": torch.zeros(1, 5, 4), "noise": torch.zeros(1, 8)}, r"noise has the shape \(1, 8\), but must be"),
        ({"mel": torch.zeros(1, 5, 4), "noise": torch.zeros(1, 8, 2)}, r"must be \(B, T, 1\): take it from"),
        ({"mel": torch.zeros(1, 5, 4), "noise": torch.zeros(2, 8, 1)}, "batch sizes differ"),
        ({"mel": torch.zeros(1, 5, 4), "noise": torch.zeros(1, 33, 1)}, "length is 33, but the mel covers 32"),
        ({"mel": torch.zeros(1, 5, 4), "noise": torch.zeros(1, 8, 1), "length": 9}, "the noise covers 8 samples"),
        ({"mel": torch.zeros(1, 5, 4), "speaker": torch.tensor([2])}, "speaker .* is unknown"),
        ({"mel": torch.zeros(1, 5, 4), "seed": -1}, "seed is -1"),
        ({"mel": torch.zeros(1, 5, 4), "backend": "cuda"}, "'cuda' is not a valid Backend"),
    ],
)
def test_what_does_not_fit_is_refused(make_wavenet, inputs, message):
    with pytest.raises(ValueError, match=message):
        generate(make_wavenet(n_speakers=2), **{"speaker": torch.tensor([0]), **inputs})


def test_a_history_longer_than_the_mel_is_refused(make_wavenet):
    with pytest.raises(ValueError, match="length is 33, but the mel covers 32"):
        parameters(make_wavenet(), torch.zeros(1, 33), torch.zeros(1, 5, 4))


def test_numba_refuses_half_precision(make_wavenet):
    with pytest.raises(ValueError, match=r"the model is torch.bfloat16, .*cast the model"):
        generate(make_wavenet(n_mels=0, dtype=torch.bfloat16), length=4)


def test_packed_weights_are_contiguous_and_in_the_models_dtype(make_wavenet):
    for dtype in (np.float32, np.float64):
        model = make_wavenet(dtype=torch.float32 if dtype is np.float32 else torch.float64)
        packed = numba_backend.pack(model, model.conditioner(mel_like(2, 5, next(model.parameters()).dtype), None))
        arrays = [value for value in packed.network if isinstance(value, np.ndarray)]
        for array in (*arrays, packed.frames, packed.output.levels):
            assert array.flags.c_contiguous and array.dtype in (dtype, np.int64)


@pytest.mark.parametrize("run", [generate, parameters])
@pytest.mark.parametrize("backend", [Backend.naive, Backend.cached])
def test_a_backend_without_such_weights_says_so(make_wavenet, run, backend):
    given = {"length": 4} if run is generate else {"x": torch.zeros(1, 4)}
    with pytest.raises(
        ValueError, match=f"bfloat16, but the backend {backend} keeps them exact: use the backend numba"
    ):
        run(make_wavenet(n_mels=0), **given, backend=backend, weights=Weights.bfloat16)


def test_weights_in_bfloat16_go_with_float32(make_wavenet):
    with pytest.raises(ValueError, match=r"the model is torch.float64, but weights in bfloat16 .*cast the model"):
        generate(make_wavenet(n_mels=0), length=4, weights=Weights.bfloat16)
    with pytest.raises(ValueError, match="'float16' is not a valid Weights"):
        generate(make_wavenet(n_mels=0), length=4, weights="float16")
