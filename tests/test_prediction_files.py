"""What ``predict`` reads from and writes to: lists, folders, files, links, pipes and devices."""

import csv
import json
import os
import subprocess
import threading
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st

from pneumonia.prediction.paths import listed_paths
from pneumonia.prediction.rows import open_writer

Predict = Callable[..., Result]
ROW = {"path": "a.png", "label": "NORMAL", "probability": 0.25, "status": "ok", "reason": ""}
ROWS = [{**ROW, "model": "models:/m/1"}] * 3


def read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_files_that_are_no_images_are_counted_by_type(
    xrays: Path, tmp_path: Path, predict: Predict
) -> None:
    image = next((xrays / "test").rglob("*.jpeg"))
    (tmp_path / "scan.jpeg").write_bytes(image.read_bytes())
    for name in ("a.dcm", "b.DCM", "notes.txt", "README", ".hidden"):
        (tmp_path / name).write_bytes(b"")
    result = predict(tmp_path)
    assert result.exit_code == 0, result.stderr
    assert "skipped: 2 .dcm, 1 .txt, 1 hidden, 1 without ending" in result.stderr


def test_the_ending_decides_the_format(tmp_path: Path, xrays: Path, predict: Predict) -> None:
    image = next(xrays.rglob("*.jpeg"))
    for name, read in (
        ("rows.csv", read_csv),
        ("rows.jsonl", lambda path: [json.loads(line) for line in path.read_text().splitlines()]),
        ("rows.PARQUET", lambda path: pq.read_table(path).to_pylist()),
    ):
        assert predict(image, "--output", tmp_path / name).exit_code == 0
        assert [row["path"] for row in read(tmp_path / name)] == [str(image)]


@pytest.mark.parametrize(
    ("name", "asked", "says"),
    [
        ("rows.parquet", ("--format", "csv"), "is named as parquet and --format says csv"),
        ("rows.xlsx", (), "has an unknown ending: say --format"),
    ],
)
def test_a_name_that_contradicts_the_format_is_refused(
    name: str, asked: tuple[str, ...], says: str, tmp_path: Path, xrays: Path, predict: Predict
) -> None:
    result = predict(next(xrays.rglob("*.jpeg")), "--output", tmp_path / name, *asked)
    assert result.exit_code == 2
    assert says in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    target, link = tmp_path / "target.csv", tmp_path / "link.csv"
    target.write_text("old")
    link.symlink_to(target)
    with open_writer(link) as write:
        write(ROWS)
        assert target.read_text() == "old"
    assert link.is_symlink()
    assert len(read_csv(target)) == 3


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    with open_writer(pipe) as write:
        write(ROWS)
    reader.join(timeout=10)
    assert read[0].count("\n") == 4
    assert pipe.is_fifo()


@pytest.mark.skipif(not Path("/dev/fd").is_dir(), reason="needs /dev/fd")
@pytest.mark.parametrize("file_format", ["csv", "jsonl", "parquet"])
def test_an_open_descriptor_is_written_to(file_format: str, tmp_path: Path) -> None:
    with (tmp_path / "rows").open("wb") as file:
        with open_writer(Path(f"/dev/fd/{file.fileno()}"), file_format) as write:
            write(ROWS)
        same = os.fstat(file.fileno()).st_ino == (tmp_path / "rows").stat().st_ino
    assert same
    assert (tmp_path / "rows").stat().st_size > 0


def test_a_device_stays_a_device() -> None:
    with open_writer(Path("/dev/null"), "csv") as write:
        write(ROWS)
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_an_interrupt_keeps_the_rows_that_are_finished(
    ending: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / f"rows.{ending}"
    output.write_text("old")

    def interrupted() -> None:
        with open_writer(output) as write:
            write(ROWS)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    partial = tmp_path / f"rows.partial.{ending}"
    n_rows = len(read_csv(partial)) if ending == "csv" else pq.read_table(partial).num_rows
    assert n_rows == 3
    assert output.read_text() == "old"
    assert f"3 finished rows are kept in {partial}" in caplog.text


def test_lists_are_read_as_programs_write_them(
    tmp_path: Path, xrays: Path, predict: Predict
) -> None:
    (tmp_path / "a b.jpeg").write_bytes(next(xrays.rglob("*.jpeg")).read_bytes())
    (tmp_path / "c.jpeg").write_bytes(next(xrays.rglob("*.jpeg")).read_bytes())
    names = [str(tmp_path / "a b.jpeg"), str(tmp_path / "c.jpeg")]
    by_find = subprocess.run(
        ["find", tmp_path, "-name", "*.jpeg", "-print0"], capture_output=True, text=True, check=True
    ).stdout
    for text in (
        "\n".join(names),
        "\r\n".join(names) + "\r\n",
        "\ufeff" + "\n".join(names),
        "\n".join(f'"{name}"' for name in names),
        by_find,
    ):
        result = predict("-", input=text)
        assert result.exit_code == 0, (text, result.stderr)
        rows = csv.DictReader(result.stdout.splitlines())
        assert sorted(row["path"] for row in rows) == names


@given(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1)))
def test_any_name_survives_a_list_separated_by_zero_bytes(names: list[str]) -> None:
    """Also names with line feeds, quotes and spaces."""
    text = "".join(f"{name}\0" for name in ["x", *names])
    lines = text.splitlines(keepends=True) if "\n" not in text else text.split("\n")
    if "\n" in text:
        lines = [f"{line}\n" for line in lines[:-1]] + lines[-1:]
    assert list(listed_paths(lines)) == ["x", *names]


def test_a_file_whose_name_ends_in_a_carriage_return_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("odd\r", '"quoted"'):
        Path(name).touch()
    assert list(listed_paths(["odd\r\n", "even\r\n", '"quoted"\n'])) == [
        "odd\r",
        "even",
        '"quoted"',
    ]


class _Page(HTMLParser):
    """Collects what a browser would load, the kinds of the items in order, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.kinds: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.loaded += [str(found[name]) for name in ("src", "href") if name in found]
        if tag == "li":
            self.kinds.append(str(found["data-kind"]))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_worklist_begins_with_the_most_urgent(
    xrays: Path, tmp_path: Path, predict: Predict
) -> None:
    (tmp_path / "<script>alert(1).png").write_bytes(b"no image")
    output = tmp_path / "list.html"
    result = predict(xrays / "test", *tmp_path.glob("*.png"), "--output", output)
    assert result.exit_code == 1
    page = _Page()
    page.feed(output.read_text())
    order = {"PNEUMONIA": 0, "rejected": 1, "error": 1, "NORMAL": 2}
    assert [order[kind] for kind in page.kinds] == sorted(order[kind] for kind in page.kinds)
    assert len(page.kinds) == len(list((xrays / "test").rglob("*.jpeg"))) + 1
    assert page.kinds.count("error") == 1
    assert len(page.loaded) == len(page.kinds) - 1
    assert all(url.startswith("data:image/jpeg;base64,") for url in page.loaded)
    assert "<script>alert(1).png" in page.text  # as text, not as a tag
    assert "not a medical device" in page.text
    assert predict(xrays / "test", "--output", output, "--resume").exit_code == 2
