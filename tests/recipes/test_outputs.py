"""A folder that cannot be written is refused before any work, and nothing is made by looking."""

import os
from pathlib import Path

import pytest

from recipes.outputs import OutputError, check_writable


def test_a_folder_that_is_there_or_can_be_made_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_writable(tmp_path)
    check_writable(tmp_path / "new" / "deep")
    monkeypatch.chdir(tmp_path)
    check_writable("new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["file", "file/below", "file/far/below"])
def test_a_file_in_its_place_or_on_the_way_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=rf"{name} cannot be written: .*file is no folder; name another"):
        check_writable(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="there is no permission"):
        check_writable(tmp_path / "new")
