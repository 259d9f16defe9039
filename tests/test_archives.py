"""Images in zip and tar archives, and at URLs."""

import csv
import gzip
import io
import tarfile
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import Result

from pneumonia.errors import DataError, PneumoniaError
from pneumonia.prediction.paths import find_paths

Predict = Callable[..., Result]
TAR_MODES = {".tar": "", ".tar.gz": "gz", ".tgz": "gz", ".tar.bz2": "bz2", ".tar.xz": "xz"}


@pytest.fixture
def folder(xrays: Path, tmp_path: Path) -> Path:
    """Images, and what is none, in folders."""
    folder = tmp_path / "scans"
    for number, image in enumerate(sorted((xrays / "test").rglob("*.jpeg"))[:5]):
        target = folder / "ward" / f"{9 - number}{image.suffix * (number < 4)}"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(image.read_bytes())
    for name in ("notes.txt", ".hidden.jpeg", "__MACOSX/1.jpeg", "masks/1.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"no image")
    return folder


def pack(folder: Path, archive: Path) -> Path:
    """Put a folder into an archive, in an order that is not sorted."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    files.sort(key=lambda path: path.name[::-1])
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
            for file in files:
                out.write(file, file.relative_to(folder))
    else:
        ending = archive.name.removeprefix(archive.name.split(".")[0])
        with tarfile.open(archive, f"w:{TAR_MODES[ending]}") as out:  # type: ignore[call-overload]
            for file in files:
                out.add(file, file.relative_to(folder))
    return archive


def rows(result: Result) -> list[dict[str, str]]:
    return list(csv.DictReader(result.stdout.splitlines()))


def scores(result: Result) -> dict[str, tuple[str, str]]:
    """The label and probability of each image, by the digest of its content."""
    assert result.exit_code == 0, result.stderr
    return {row["sha256"]: (row["label"], row["probability"]) for row in rows(result)}


@pytest.mark.parametrize("ending", [".zip", *TAR_MODES])
def test_an_archive_gives_the_bytes_of_its_folder(
    folder: Path, tmp_path: Path, ending: str
) -> None:
    skipped: Counter[str] = Counter()
    members = find_paths([pack(folder, tmp_path / f"scans{ending}")], skipped=skipped)
    expected: Counter[str] = Counter()
    files = find_paths([folder], skipped=expected)
    assert {file.read_bytes() for file in members} == {file.read_bytes() for file in files}
    assert skipped == expected


@pytest.mark.parametrize("ending", [".zip", ".tar.gz"])
def test_an_archive_gives_the_rows_of_its_folder(
    folder: Path, tmp_path: Path, predict: Predict, ending: str
) -> None:
    archive = pack(folder, tmp_path / f"scans{ending}")
    before = sorted(tmp_path.rglob("*"))
    result = predict(archive)
    assert scores(result) == scores(predict(folder))
    kind = "zip" if ending == ".zip" else "tar"
    assert rows(result)[0]["path"].startswith(f"{kind}://ward/")
    assert rows(result)[0]["path"].endswith(f"::{archive}")
    assert "skipped: 1 .txt, 1 __MACOSX folder, 1 hidden, 1 masks folder" in result.stderr
    assert sorted(tmp_path.rglob("*")) == before  # nothing was unpacked


def test_a_row_names_a_member_so_that_it_can_be_scored_again(
    folder: Path, tmp_path: Path, predict: Predict
) -> None:
    named = [row["path"] for row in rows(predict(pack(folder, tmp_path / "a.zip")))]
    again = predict(named[2])
    assert [row["path"] for row in rows(again)] == [named[2]]
    assert len(scores(predict("-", input="\n".join(named)))) == 5
    gone = predict("zip://ward/none.jpeg::" + str(tmp_path / "a.zip"))
    assert (gone.exit_code, "ward/none.jpeg" in gone.stderr) == (1, True)


def test_a_worklist_shows_members(folder: Path, tmp_path: Path, predict: Predict) -> None:
    archive = pack(folder, tmp_path / "scans.tar.gz")
    assert predict(archive, "--output", tmp_path / "list.html").exit_code == 0
    assert (tmp_path / "list.html").read_text().count("data:image/jpeg;base64") == 5


def test_members_are_explained(
    folder: Path, tmp_path: Path, trained: SimpleNamespace, run_cli: Callable[..., Result]
) -> None:
    archive = pack(folder, tmp_path / "scans.zip")
    model = ("--model-uri", "models:/resnet34/1", "--tracking-uri", trained.tracking_uri)
    result = run_cli("explain", *model, archive, "--output", tmp_path / "maps")
    assert result.exit_code == 0, result.stderr
    assert len(list((tmp_path / "maps").glob("*.png"))) == 5


def test_a_resumed_job_leaves_out_the_members_that_have_rows(
    folder: Path, tmp_path: Path, predict: Predict
) -> None:
    archive, output = pack(folder, tmp_path / "scans.zip"), tmp_path / "rows.csv"
    assert predict(archive, "--output", output).exit_code == 0
    assert "5 there already" in predict(archive, "--output", output, "--resume").stderr


def test_members_with_names_that_lead_elsewhere_are_only_read(
    xrays: Path, tmp_path: Path, predict: Predict
) -> None:
    image = next(xrays.rglob("*.jpeg")).read_bytes()
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as out:
        for name in ("../../outside.jpeg", "/etc/outside.jpeg"):
            out.writestr(name, image)
    with tarfile.open(tmp_path / "evil.tar", "w") as out:
        for name in ("../outside.jpeg", "/outside.jpeg"):
            info = tarfile.TarInfo(name)
            info.size = len(image)
            out.addfile(info, io.BytesIO(image))
        link = tarfile.TarInfo("link.jpeg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        out.addfile(link)
    assert len(rows(predict(tmp_path / "evil.zip"))) == 2
    assert len(rows(predict(tmp_path / "evil.tar"))) == 2
    assert not list(tmp_path.parent.rglob("outside.jpeg"))


def test_one_damaged_member_is_a_row_with_the_reason(
    folder: Path, tmp_path: Path, predict: Predict
) -> None:
    archive = pack(folder, tmp_path / "scans.zip")
    content = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as opened:
        victim = next(entry for entry in opened.infolist() if entry.filename.endswith("9.jpeg"))
    content[victim.header_offset + 100 : victim.header_offset + 140] = bytes(40)
    archive.write_bytes(content)
    result = predict(archive)
    assert result.exit_code == 1
    failed = [row for row in rows(result) if row["status"] == "error"]
    assert [row["path"] for row in failed] == [f"zip://ward/9.jpeg::{archive}"]
    assert "archive" in failed[0]["reason"]
    assert len(rows(result)) == 5


@pytest.mark.parametrize("name", ["bad.zip", "bad.tar", "bad.tar.gz", "bad.tar.xz"])
@pytest.mark.parametrize(
    "content", [b"", b"no archive" * 100, b"PK\3\4", gzip.compress(b"x" * 9, mtime=0)]
)
def test_a_damaged_archive_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"cannot read the archive '{tmp_path / name}'"):
        list(find_paths([tmp_path / name]))


def test_a_bomb_is_refused(tmp_path: Path, predict: Predict) -> None:
    """And by one line, as every archive that cannot be read."""
    with gzip.open(tmp_path / "bomb.tar.gz", "wb") as out:
        for _ in range(200):
            out.write(bytes(2**20))
    result = predict(tmp_path / "bomb.tar.gz")
    assert result.exit_code == 1
    assert "unpacks to more than 200 times its size" in result.stderr


class Server(ThreadingHTTPServer):
    """A server of the files of a folder, which can refuse."""

    refused = ""
    url = ""


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            if server.refused and server.refused in self.path:
                self.send_error(503)
            else:
                super().do_GET()

    with Server(("127.0.0.1", 0), partial(Handler, directory=folder)) as server:
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_files_at_urls_give_the_rows_of_their_folder(
    folder: Path, server: Server, predict: Predict
) -> None:
    (folder / "ward" / "5").unlink()  # without an ending it would not be taken
    expected = scores(predict(folder / "ward"))
    result = predict(f"{server.url}/ward/")
    assert scores(result) == expected
    assert rows(result)[0]["path"].startswith(f"{server.url}/ward/")
    urls = [row["path"] for row in rows(result)]
    assert scores(predict(*urls)) == expected
    assert scores(predict("-", input="\n".join(urls))) == expected


def test_an_archive_at_a_url_is_read(folder: Path, server: Server, predict: Predict) -> None:
    expected = scores(predict(folder))
    pack(folder, folder / "all.zip")
    assert scores(predict(f"{server.url}/all.zip")) == expected


def test_what_a_server_refuses_is_a_row_with_the_reason(
    folder: Path, server: Server, predict: Predict
) -> None:
    server.refused = "9.jpeg"
    names = [f"{server.url}/ward/{number}.jpeg" for number in (9, 8)]
    result = predict(*names)
    assert result.exit_code == 1
    assert [row["status"] for row in rows(result)] == ["error", "ok"]
    assert "503" in rows(result)[0]["reason"]
    assert folder.is_dir()


def test_urls_that_lead_nowhere_are_told_in_one_line(server: Server) -> None:
    server.shutdown()
    server.server_close()
    for url, expected in (
        (f"{server.url}/ward/", "cannot list"),
        (f"{server.url}/all.zip", "cannot read"),
        ("nosuch://bucket/folder", "unknown kind"),
    ):
        with pytest.raises(PneumoniaError, match=expected) as raised:
            list(find_paths([url]))
        assert "\n" not in str(raised.value)


def test_a_store_whose_package_is_missing_is_told(
    predict: Predict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    result = predict("s3://bucket/scans/")
    assert result.exit_code == 2
    assert "pip install 'pneumonia[remote]'" in result.stderr


def test_spark_is_told_to_unpack(folder: Path, tmp_path: Path, predict: Predict) -> None:
    pytest.importorskip("pyspark", reason="needs pyspark: pip install 'pneumonia[spark]'")
    archive = pack(folder, tmp_path / "scans.zip")
    result = predict(archive, "--spark", "local[1]", "--output", tmp_path / "rows")
    assert result.exit_code == 2
    assert "unpack archives" in result.stderr
