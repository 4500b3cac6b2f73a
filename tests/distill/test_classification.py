"""Laws of the classifier's objective: which frames count, and what the figures mean."""

from dataclasses import asdict

import pytest
import torch
import torch.nn.functional as F

from data.phones import PhoneBatch
from distill.classification import ClassifierObjective
from distill.classifier import ClassifierConfig, ClassifierSize, PhoneClassifier

HOP, L, LOOKAHEAD = 16, 24, 3
SIZE = ClassifierSize(bands=4, window=24, channels=[6, 8], layers=[3, 2], pools=[4, 4], lookahead=LOOKAHEAD)


@pytest.fixture
def objective() -> ClassifierObjective:
    config = ClassifierConfig(**asdict(SIZE), sample_rate=4000, hop_length=HOP, phones=["", "a", "b", "c"])
    return ClassifierObjective(PhoneClassifier(config), majority=1)


@pytest.fixture
def phone_batch() -> PhoneBatch:
    wav = 0.05 * torch.randn(3, L * HOP)
    mel, speaker = torch.zeros(3, 5, L), torch.zeros(3, dtype=torch.long)
    return PhoneBatch(wav, mel, speaker, left=0, margin=0, phones=torch.randint(4, (3, L)))


def test_the_loss_is_the_cross_entropy_of_all_frames_whose_future_is_there(
    objective: ClassifierObjective, phone_batch: PhoneBatch
) -> None:
    log_p = objective.model(phone_batch.wav).log_softmax(dim=2)
    each = [-log_p[b, t, phone_batch.phones[b, t]] for b in range(3) for t in range(L - LOOKAHEAD)]
    report = objective(phone_batch, 0)
    torch.testing.assert_close(report.loss, torch.stack(each).mean())
    guess = log_p.argmax(dim=2)
    assert report.terms["accuracy"] == (guess == phone_batch.phones[:, : L - LOOKAHEAD]).float().mean()
    assert objective.samples(phone_batch) == 3 * L * HOP


def test_the_last_labels_do_not_count(objective: ClassifierObjective, phone_batch: PhoneBatch) -> None:
    before = objective(phone_batch, 0).loss
    phone_batch.phones[:, L - LOOKAHEAD :] = 0
    assert objective(phone_batch, 0).loss == before
    phone_batch.phones[:, L - LOOKAHEAD - 1] = (phone_batch.phones[:, L - LOOKAHEAD - 1] + 1) % 4
    assert objective(phone_batch, 0).loss != before


def test_validation_says_how_good_a_constant_guess_is(objective: ClassifierObjective, phone_batch: PhoneBatch) -> None:
    with torch.no_grad():
        figures = objective.validate(phone_batch)
        assert figures["cross_entropy"] == pytest.approx(float(objective(phone_batch, 0).loss))
    counted = phone_batch.phones[:, : L - LOOKAHEAD]
    assert figures["majority"] == pytest.approx(float((counted == 1).float().mean()))
    assert 0 < figures["gram_40db"] < figures["gram_20db"] < figures["gram_0db"]


def test_it_learns_what_can_be_heard(objective: ClassifierObjective) -> None:
    """Tones of four frequencies, a frame or more each."""
    generator = torch.Generator().manual_seed(0)

    def batch() -> PhoneBatch:
        phones = torch.randint(4, (4, L // 4), generator=generator).repeat_interleave(4, dim=1)
        frequency = 0.02 * 2.0**phones  # cycles a sample
        phase = frequency.repeat_interleave(HOP, dim=1).cumsum(dim=1)
        mel, speaker = torch.zeros(4, 5, L), torch.zeros(4, dtype=torch.long)
        return PhoneBatch(0.1 * torch.sin(2 * torch.pi * phase), mel, speaker, 0, 0, phones=phones)

    optimizer = torch.optim.Adam(objective.parameters(), lr=1e-2)
    for step in range(120):
        optimizer.zero_grad()
        objective(batch(), step).loss.backward()
        optimizer.step()
    unseen = batch()
    with torch.no_grad():
        logits = objective.model(unseen.wav)
    target = unseen.phones[:, : L - LOOKAHEAD]
    assert (logits.argmax(dim=2) == target).float().mean() > 0.8
    assert F.cross_entropy(logits.flatten(0, 1), target.flatten()) < 0.6
