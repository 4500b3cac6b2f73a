"""Sentences: distinct, whole, and a pure function of the seed."""

import pytest

from data.sentences import GRAMMAR, sentences


def test_many_sentences_are_distinct_and_complete() -> None:
    texts = sentences(1000, seed=0)
    assert len(set(texts)) == 1000
    for text in texts:
        assert text.lstrip('"')[0].isupper()
        assert text.rstrip('"')[-1] in ".?!"
        assert "{" not in text


def test_the_seed_decides_and_a_longer_list_begins_like_a_shorter_one() -> None:
    assert sentences(50, seed=3) == sentences(80, seed=3)[:50]
    assert not set(sentences(50, seed=3)) & set(sentences(50, seed=4))


def test_more_than_the_grammar_holds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GRAMMAR, "sentence", ["One {few}.", "Two."])
    assert len(sentences(5, seed=0)) == 5
    with pytest.raises(ValueError, match="6 distinct sentences are too many: after 600 draws there are 5"):
        sentences(6, seed=0)
