"""The teacher's objective: what it may read, and what it is judged on."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from data.dataset import Batch
from wavenet.distributions import OutputKind
from wavenet.model import WaveNet
from wavenet.objective import COLD_START, TeacherObjective

HOP = 8


@pytest.fixture
def batch() -> Batch:
    torch.manual_seed(1)
    return Batch(0.1 * torch.randn(2, 4 * HOP), torch.randn(2, 5, 4), torch.zeros(2, dtype=torch.long), 0, 0)


@pytest.mark.parametrize("kind", OutputKind)
def test_input_dropout_hides_samples_from_the_network_and_none_from_the_likelihood(
    make_wavenet: Callable[..., WaveNet], batch: Batch, kind: OutputKind
) -> None:
    model = make_wavenet(kind, dtype=torch.float32)
    objective = TeacherObjective(model, 1.0, 8000, [], input_dropout=0.5)
    heard = []
    model.network.register_forward_pre_hook(lambda module, inputs: heard.append(inputs[0]))
    bits = objective(batch, 0).terms["bits"]
    (read,) = heard
    x = model.distribution.quantise(batch.wav)
    embedded = model.distribution.embed(x)
    hidden = read == 0
    assert 0.3 < hidden.float().mean() < 0.7
    torch.testing.assert_close(read[~hidden], 2 * embedded[~hidden])  # so that the sum over inputs keeps its mean
    with torch.no_grad():
        params = model.network(read, model.conditioner(batch.mel, batch.speaker))
    torch.testing.assert_close(bits, model.distribution.bits(params, x).mean())


def test_input_noise_is_read_and_never_to_be_said(make_wavenet: Callable[..., WaveNet], batch: Batch) -> None:
    model = make_wavenet(OutputKind.gaussian, dtype=torch.float32)
    objective = TeacherObjective(model, 1.0, 8000, [], input_noise=0.1)
    heard: list[Tensor] = []
    model.network.register_forward_pre_hook(lambda module, inputs: heard.append(inputs[0]))
    bits = objective(batch, 0).terms["bits"]
    with torch.no_grad():
        params = model.network(heard.pop(), model.conditioner(batch.mel, batch.speaker))
    x = model.distribution.quantise(batch.wav)
    torch.testing.assert_close(bits, model.distribution.bits(params, x).mean())
    for _ in range(200):
        objective(batch, 0)
    clean = model.distribution.embed(x)
    levels = torch.stack([(read - clean).std(dim=1) / clean.std(dim=1) for read in heard]).flatten()
    assert levels.max() < 0.13 and levels.min() > 0.5e-4  # as 64 samples estimate what is from 1e-4 to 0.1
    assert 0.35 < (levels < 10**-2.5).float().mean() < 0.65  # alike in dB


def test_validation_and_shares_of_zero_hide_nothing(make_wavenet: Callable[..., WaveNet], batch: Batch) -> None:
    model = make_wavenet(dtype=torch.float32)
    plain = TeacherObjective(model, 1.0, 8000, [])(batch, 0).loss
    model.eval()
    assert TeacherObjective(model, 1.0, 8000, [], input_dropout=0.5, input_noise=0.1)(batch, 0).loss == plain


def test_the_context_counts_in_some_steps_of_training_and_never_in_validation(
    make_wavenet: Callable[..., WaveNet], batch: Batch
) -> None:
    model = make_wavenet(dtype=torch.float32)
    objective = TeacherObjective(model, 1.0, 8000, [])
    late = replace(batch, left=2 * HOP)
    counted = [objective(late, step).loss == objective(batch, step).loss for step in range(2 * COLD_START)]
    assert [step for step, whole in enumerate(counted) if whole] == [0, COLD_START]
    model.eval()
    assert objective(late, 0).loss == objective(late, 1).loss != objective(batch, 0).loss


@pytest.mark.parametrize("kind", OutputKind)
def test_the_zeros_before_an_utterance_are_read_and_never_count(
    make_wavenet: Callable[..., WaveNet], batch: Batch, kind: OutputKind
) -> None:
    """Digital silence is so likely that a teacher which learnt it would begin with a burst."""
    model = make_wavenet(kind, dtype=torch.float32)
    padding = torch.tensor([HOP + 3, 0])
    before = torch.arange(batch.wav.shape[1]) < padding[:, None]  # (B, T)
    late = replace(batch, wav=batch.wav.masked_fill(before, 0.0), left=2 * HOP, padding=padding)
    terms = TeacherObjective(model, 1.0, 8000, [])(late, COLD_START).terms
    with torch.no_grad():
        x = model.distribution.quantise(late.wav)
        params = model(x, late.mel, late.speaker)
        nll = -model.distribution.log_density(params, x)
        bits = model.distribution.bits(params, x)
    for name, values in (("nll", nll), ("bits", bits)):
        rows = [row[~hidden].mean() for row, hidden in zip(values, before, strict=True)]
        torch.testing.assert_close(terms[name], torch.stack(rows).mean())  # as many processes of a row each would find
    torch.testing.assert_close(TeacherObjective(model, 1.0, 8000, [])(late, 1).terms["nll"], nll[:, 2 * HOP :].mean())
