"""Files are replaced as a whole."""

from pathlib import Path

import pytest

from pneumonia.files import atomic_write, unfinished_writes


def test_a_write_that_fails_leaves_the_old_content_and_no_temporary_file(tmp_path: Path) -> None:
    """An error within the block keeps what the file held."""
    path = tmp_path / "state.json"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), atomic_write(path) as unfinished:
        unfinished.write_bytes((tmp_path / "missing").read_bytes())
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_readers_see_the_old_content_until_the_new_one_is_whole(tmp_path: Path) -> None:
    """The file changes when the block ends, and not before; its folder is made on the way."""
    path = tmp_path / "new" / "state.json"
    for content in ("first", "second"):
        with atomic_write(path) as unfinished:
            unfinished.write_text(content)
            assert not path.exists() or path.read_text() == "first"
            assert unfinished_writes(path.parent, path.name) == [unfinished]
        assert path.read_text() == content
        assert unfinished_writes(path.parent) == []


def test_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    """Two writers at once leave the content of the later one."""
    path = tmp_path / "state.json"
    with atomic_write(path) as one, atomic_write(path) as other:
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]
