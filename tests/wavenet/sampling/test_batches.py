"""Batches that share weights, threads that share a layer, and weights in bfloat16."""

import copy

import pytest
import torch

from wavenet.distributions import OutputKind
from wavenet.network import StackConfig
from wavenet.sampling import numba_backend, numba_loop
from wavenet.sampling.generate import Backend, generate, parameters
from wavenet.sampling.packing import Weights

SHAPES = {
    "kernel 2": StackConfig(5, 3, 2, 16, 32, 16),
    "no skip connections": StackConfig(4, 4, 3, 33, 66, 0),
    "wider than a panel": StackConfig(3, 2, 3, 65, 70, 129),
    "long dilations": StackConfig(10, 10, 3, 8, 12, 10),
}


@pytest.fixture
def threads():
    """Sets the number of threads, and sets it back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def mel_like(batch, frames):
    return torch.randn(batch, 5, frames, generator=torch.Generator().manual_seed(2)) * 2.5 - 5


@torch.no_grad()
def rounded(model):
    """The network whose weights in the layers and in the hidden layer are bfloat16."""
    model = copy.deepcopy(model)
    network = model.network
    for linear in (network.hidden, *(part for block in network.stack.blocks for part in (block.conv, block.out))):
        linear.weight.copy_(linear.weight.bfloat16())
    return model


@pytest.mark.parametrize("weights", Weights)
@pytest.mark.parametrize("kind", OutputKind)
@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_parameters_are_those_of_the_network_with_these_weights(make_wavenet, threads, shape, kind, weights):
    exact = make_wavenet(kind, SHAPES[shape], hop_length=64, n_speakers=2, dtype=torch.float32)
    model = rounded(exact) if weights is Weights.bfloat16 else exact
    frames = 34 if shape == "long dilations" else 3
    x = 0.3 * torch.randn(3, 64 * frames, generator=torch.Generator().manual_seed(1))
    mel, speaker = mel_like(3, frames), torch.tensor([0, 1, 0])
    whole = model(x, mel, speaker)
    for n in (1, 2):
        threads(n)
        steps = parameters(exact, x, mel, speaker, Backend.numba, weights)
        torch.testing.assert_close(steps, whole, rtol=1e-5, atol=1e-5 * whole.abs().max())


@torch.no_grad()
def test_rounded_weights_are_others(make_wavenet):
    model, x = make_wavenet(n_mels=0, dtype=torch.float32), torch.linspace(-1, 1, 40)[None]
    exact, coarse = (parameters(model, x, weights=weights) for weights in Weights)
    assert 1e-4 < (exact - coarse).abs().max() < 0.1


@pytest.mark.parametrize("weights", Weights)
@pytest.mark.parametrize("kind", OutputKind)
@pytest.mark.parametrize("batch", [1, 2, 3, 4, 5, 8, 9])
def test_an_utterance_is_bit_for_bit_the_same_in_any_batch_on_any_threads(make_wavenet, threads, kind, batch, weights):
    model, mel = make_wavenet(kind, dtype=torch.float32), mel_like(batch, 6)
    threads(1)
    alone = torch.cat([generate(model, mel[b : b + 1], seed=b, weights=weights) for b in range(batch)])
    for n in (1, 2, 3, 8):
        threads(n)
        assert torch.equal(generate(model, mel, weights=weights), alone)


@pytest.mark.parametrize("batch", [1, 3, 5])
def test_a_batch_may_share_its_condition(make_wavenet, threads, batch):
    model = make_wavenet(OutputKind.mol, n_mels=0, dtype=torch.float32)
    noise = torch.stack([model.distribution.noise(b, 0, 40) for b in range(batch)])
    alone = torch.cat([generate(model, noise=noise[b : b + 1]) for b in range(batch)])
    for n in (1, 2):
        threads(n)
        assert torch.equal(generate(model, noise=noise), alone)


def test_two_threads_that_wait_for_a_processor_give_way_to_one_for_a_while(make_wavenet, threads, monkeypatch):
    model, members = make_wavenet(n_mels=0, dtype=torch.float32), []
    packed = numba_backend.pack(model, None)
    state, noise = numba_backend.initial_state(packed, 1), model.distribution.noise(0, 0, 100)[None]

    def late(*arguments):
        members.append(arguments[-1])
        return 2 if arguments[-1] == 2 else 0

    monkeypatch.setattr(numba_loop, "run", late)
    threads(2)
    for _ in range(34):
        numba_backend.sample(packed, noise, state)
    assert members == [2, 2] + [1] * 32 + [2, 2]
