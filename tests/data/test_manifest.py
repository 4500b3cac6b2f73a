"""Splits by hash, and a manifest that survives the round trip or is refused."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.manifest import DataError, Entry, Split, assign_splits, read_manifest, split_of, write_manifest

IDS = [f"LJ{n:04d}" for n in range(2000)]


def test_the_split_of_an_id_never_changes() -> None:
    held_out = {name: split_of(name) for name in IDS[:30] if split_of(name) is not Split.train}
    assert {name for name, split in held_out.items() if split is Split.test} == {"LJ0001", "LJ0002", "LJ0003"}
    assert {name for name, split in held_out.items() if split is Split.valid} == {
        "LJ0008",
        "LJ0017",
        "LJ0019",
        "LJ0023",
        "LJ0027",
    }


def test_shares_are_as_asked() -> None:
    splits = [split_of(name, valid=0.1, test=0.2) for name in IDS]
    assert splits.count(Split.valid) / 2000 == pytest.approx(0.1, abs=0.02)
    assert splits.count(Split.test) / 2000 == pytest.approx(0.2, abs=0.03)


@given(st.lists(st.text(min_size=1), min_size=3, max_size=12, unique=True))
def test_no_split_is_empty_however_small_the_corpus(ids: list[str]) -> None:
    splits = assign_splits(ids)
    assert set(splits) == set(ids)
    assert set(splits.values()) == set(Split)
    assert splits == assign_splits(ids[::-1])


def test_in_a_large_corpus_the_hash_alone_decides() -> None:
    assert assign_splits(IDS) == {name: split_of(name) for name in IDS}


def test_even_large_shares_leave_one_for_training() -> None:
    assert list(assign_splits(IDS[:3], valid=0.5, test=0.49).values()).count(Split.train) == 1


@pytest.mark.parametrize("count", [0, 1, 2])
def test_fewer_than_three_utterances_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} usable utterances .* give at least three"):
        assign_splits(IDS[:count])


ENTRIES = [
    Entry("a", 0, 640, 10, Split.train, "Say “no”."),
    Entry("b", 1, 64, 1, Split.test, "two\nlines\u2028and | a bar"),
]


def test_a_manifest_survives_the_round_trip(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.jsonl", ENTRIES)
    assert read_manifest(tmp_path / "m.jsonl") == ENTRIES
    assert len((tmp_path / "m.jsonl").read_bytes().splitlines()) == 2


@pytest.mark.parametrize("line", ["{", "", "[]", '{"id": "a"}', "7"])
def test_a_broken_line_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    write_manifest(path, ENTRIES)
    path.write_text(path.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"line 3 is not an entry of a manifest .*; run `wavenet prepare` again"):
        read_manifest(path)


def test_an_unknown_split_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    write_manifest(path, ENTRIES)
    path.write_text(path.read_text(encoding="utf-8").replace('"train"', '"dev"'), encoding="utf-8")
    with pytest.raises(DataError, match=r"line 1 .*'dev' is not a valid Split"):
        read_manifest(path)


def test_a_missing_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_manifest(tmp_path / "m.jsonl")
