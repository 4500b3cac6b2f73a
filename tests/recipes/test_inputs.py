"""Which files a list of paths stands for."""

from pathlib import Path

import pytest

from recipes.inputs import InputError, find_sources


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def found(*paths: Path) -> list[str]:
    return [source.path.name for source in find_sources(list(paths))]


def test_a_folder_stands_for_its_sounds_and_mels_in_order(tmp_path: Path) -> None:
    make(tmp_path, "b.wav", "a.npy", "C.FLAC", "d.mp3", "e.ogg", "notes.txt", "cover.png")
    assert found(tmp_path) == ["C.FLAC", "a.npy", "b.wav", "d.mp3", "e.ogg"]


def test_hidden_and_headerless_files_and_folders_within_are_passed_over(tmp_path: Path) -> None:
    make(tmp_path, "a.wav", "._a.wav", "b.raw", "c.wav/d.wav")
    assert found(tmp_path) == ["a.wav"]


def test_files_come_in_the_order_given_whatever_their_names(tmp_path: Path) -> None:
    make(tmp_path, "z.wav", "a.wav", "notes.txt")
    assert found(tmp_path / "z.wav", tmp_path / "a.wav", tmp_path / "notes.txt") == ["z.wav", "a.wav", "notes.txt"]


def test_a_file_that_is_named_twice_is_spoken_once(tmp_path: Path) -> None:
    make(tmp_path, "a.wav", "b.wav")
    assert found(tmp_path, tmp_path / "a.wav") == ["a.wav", "b.wav"]


def test_only_npy_files_are_mels(tmp_path: Path) -> None:
    make(tmp_path, "a.npy", "b.NPY", "c.wav")
    assert [source.is_mel for source in find_sources([tmp_path])] == [True, True, False]


def test_two_files_that_would_be_answered_by_one_name_are_refused(tmp_path: Path) -> None:
    make(tmp_path, "one/a.wav", "two/a.npy")
    with pytest.raises(InputError, match=r"one/a\.wav and .*two/a\.npy would both be written as a\.wav: name them"):
        find_sources([tmp_path / "one", tmp_path / "two"])


def test_a_path_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.wav does not exist"):
        find_sources([tmp_path / "nowhere.wav"])


def test_a_folder_without_anything_to_speak_is_refused(tmp_path: Path) -> None:
    make(tmp_path, "notes.txt")
    with pytest.raises(InputError, match=r"holds no sound file and no \.npy mel"):
        find_sources([tmp_path])
