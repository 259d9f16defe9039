import csv
import errno
import io
import json
import os
import pickle
import shutil
import signal
import socket
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import mlflow
import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from pneumonia.data.decode import Preprocessing, decode
from pneumonia.tracking.moved import update_locations
from tests.conftest import copy_store
from tests.faults.commands import Forks, pneumonia, wait_for

Cli = Callable[..., Result]
QUICK = ("--epochs", "1", "--image-size", "32", "--batch-size", "8", "--network", "simple_cnn")
# Refused after the data were accepted and before anything is trained.
TOO_LARGE = ("--batch-size", "4096")


@pytest.fixture(scope="module")
def store(trained: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> str:
    # A copy is quicker to make than a new store.
    folder = tmp_path_factory.mktemp("store") / "copy"
    copy_store(trained.folder, folder)
    update_locations(folder / "mlflow.db")
    return f"sqlite:///{folder}/mlflow.db"


@pytest.fixture
def train(workplace: Path, store: str, run_cli: Cli) -> Cli:
    assert workplace.is_dir()

    def train(data: Path | str, *arguments: object) -> Result:
        return run_cli("train", "--data", data, "--tracking-uri", store, *QUICK, *arguments)

    return train


@pytest.fixture
def predict(workplace: Path, trained: SimpleNamespace, run_cli: Cli) -> Cli:
    assert workplace.is_dir()

    def predict(
        *arguments: object, model: object = "models:/resnet34/1", **options: bytes
    ) -> Result:
        where = ("--model-uri", model, "--tracking-uri", trained.tracking_uri)
        return run_cli("predict", *where, *arguments, **options)

    return predict


@pytest.fixture
def data(xrays: Path, tmp_path: Path) -> Path:
    return shutil.copytree(xrays, tmp_path / "肺 炎")


def error_of(result: Result, code: int) -> str:
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    lines = result.stderr.splitlines()
    assert [line for line in lines if line.startswith("Error:")] == lines[-1:]
    return lines[-1]


def rows_of(result: Result) -> dict[str, dict[str, str]]:
    text = io.StringIO(result.stdout, newline="")
    return {Path(row["path"]).name: row for row in csv.DictReader(text)}


def png_claiming(side: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + b"".join(
        [chunk(b"IHDR", header), chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    )


def encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, file_format, **options)
    return out.getvalue()


GREY = Image.linear_gradient("L").resize((64, 64))
UNREADABLE = {
    "truncated.jpeg": (encoded(GREY, "JPEG")[:500], "damaged image"),
    "zero.jpeg": (b"", "the file is empty"),
    "text.jpeg": (b"no image at all\n", "not a JPEG, PNG, TIFF, BMP, WebP or DICOM image"),
    "dot.png": (encoded(GREY.resize((1, 1)), "PNG"), "1×1 pixels, too small"),
    "large.png": (png_claiming(9_000), "9000×9000 pixels, over the limit"),
    "bomb.png": (png_claiming(60_000), "exceeds limit"),
    "circle.jpeg": (None, "symbolic links"),
}


def put(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        content, _ = UNREADABLE[name]
        if content is None:
            (folder / name).symlink_to(folder / name)
        else:
            (folder / name).write_bytes(content)


@pytest.mark.parametrize("name", UNREADABLE)
def test_an_unreadable_image_stops_training_before_it_starts(
    name: str, data: Path, train: Cli
) -> None:
    put(data / "train" / "NORMAL", name)
    error = error_of(train(data), 1)
    assert f"'train/NORMAL/{name}'" in error
    assert UNREADABLE[name][1] in error
    assert "--skip-unreadable" in error


@pytest.mark.slow
def test_what_may_be_skipped_is_counted_and_trained_without(data: Path, train: Cli) -> None:
    put(data / "train" / "NORMAL", *UNREADABLE)
    leaked = next((data / "train" / "PNEUMONIA").iterdir())
    shutil.copy(leaked, data / "test" / "PNEUMONIA" / "copy.jpeg")
    result = train(data, "--skip-unreadable", "--allow-leakage")
    assert result.exit_code == 0, result.stderr
    assert f"skipped: {len(UNREADABLE)} unreadable" in result.stderr
    assert "share 0 patients and 1 identical images" in result.stderr


def test_an_unreadable_image_is_a_row_and_the_others_are_classified(
    data: Path, predict: Cli
) -> None:
    folder = data / "val" / "NORMAL"
    good = {path.name for path in folder.iterdir()}
    put(folder, *UNREADABLE)
    result = predict(folder)
    assert result.exit_code == 1
    rows = rows_of(result)
    assert rows.keys() == good | UNREADABLE.keys()
    assert {row["status"] for name, row in rows.items() if name in good} == {"ok"}
    for name, (_, reason) in UNREADABLE.items():
        assert rows[name]["status"] == "error"
        assert rows[name]["probability"] == rows[name]["label"] == ""
        assert reason in rows[name]["reason"]
    assert f"{len(UNREADABLE)} error" in result.stderr


# A picture with a black band on its left, which transparent files leave out.
PICTURE = np.array(GREY)
PICTURE[:, :16] = 0
HIDDEN = PICTURE.copy()
HIDDEN[:, :16] = 255


def rgba() -> bytes:
    image = Image.fromarray(HIDDEN).convert("RGBA")
    opaque = np.zeros_like(PICTURE)
    opaque[:, 16:] = 255
    image.putalpha(Image.fromarray(opaque))
    return encoded(image, "PNG")


def palette() -> bytes:
    image = Image.fromarray(np.where(HIDDEN == 255, 0, np.maximum(PICTURE, 1))).convert("P")
    image.putpalette([255, 255, 255, *(level for grey in range(1, 256) for level in [grey] * 3)])
    return encoded(image, "PNG", transparency=0)


def lying() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned right by 90° to be shown
    return encoded(Image.fromarray(np.rot90(PICTURE)), "JPEG", quality=95, exif=exif)


ACCEPTED = {
    "16-bit.png": lambda: encoded(Image.fromarray(PICTURE.astype(np.uint16) * 257), "PNG"),
    "cmyk.jpeg": lambda: encoded(Image.fromarray(PICTURE).convert("CMYK"), "JPEG", quality=95),
    "rgba.png": rgba,
    "palette.png": palette,
    "lying.jpeg": lying,
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_every_kind_of_image_is_decoded_to_the_same_picture(name: str) -> None:
    decoded = decode(ACCEPTED[name](), Preprocessing(64)).astype(int)
    difference = np.abs(decoded - PICTURE)
    assert np.median(difference) <= 2
    assert difference.mean() < 4


def test_every_kind_of_image_is_classified(tmp_path: Path, predict: Cli) -> None:
    for name, make in ACCEPTED.items():
        (tmp_path / name).write_bytes(make())
    result = predict(tmp_path)
    assert result.exit_code == 0, result.stderr
    assert rows_of(result).keys() == ACCEPTED.keys()


ODD_NAMES = ["two words.png", "肺炎.png", "two\nlines.png", "re\rturn.png", 'quo"te,.png']


@pytest.mark.parametrize("file_format", ["csv", "jsonl"])
def test_odd_names_come_back_as_they_were(file_format: str, tmp_path: Path, predict: Cli) -> None:
    for name in ODD_NAMES:
        GREY.save(tmp_path / name)
    result = predict(tmp_path, "--format", file_format)
    assert result.exit_code == 0, result.stderr
    if file_format == "csv":
        names = set(rows_of(result))
    else:
        names = {Path(json.loads(line)["path"]).name for line in result.stdout.splitlines()}
    assert names == set(ODD_NAMES)


@pytest.mark.slow
def test_names_in_another_encoding_do_not_end_a_training(data: Path, train: Cli) -> None:
    """Tables of images are among the last things that are logged."""
    for part in ("train", "test"):
        file = next((data / part / "NORMAL").iterdir())
        file.rename(os.fsdecode(os.fsencode(file.parent) + b"/caf\xe9-" + os.fsencode(file.name)))
    result = train(data)
    assert result.exit_code == 0, result.stderr
    (run,) = mlflow.search_runs(output_format="list", max_results=1)
    for table in ("images.csv", "predictions_test.csv"):
        rows = csv.DictReader(
            io.StringIO(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/{table}"))
        )
        assert sum("caf\\udce9-" in row["path"] for row in rows) >= 1


@pytest.mark.parametrize("file_format", ["csv", "jsonl", "parquet"])
def test_names_in_another_encoding_do_not_end_the_batch(
    file_format: str, tmp_path: Path, predict: Cli
) -> None:
    folder = tmp_path / "lungs"
    folder.mkdir()
    for name in (b"lung-\xe9.png", b"plain.png"):
        GREY.save(Path(os.fsdecode(os.fsencode(folder) + b"/" + name)))
    paths = b"\n".join(sorted(os.fsencode(path) for path in folder.iterdir()))
    result = predict("-", "--format", file_format, input=paths)
    assert result.exit_code == 0, result.stderr
    assert b"plain.png" in result.stdout_bytes
    assert (b"lung-\xe9.png" in result.stdout_bytes) == (file_format == "csv")


def test_an_empty_folder_is_no_success(tmp_path: Path, predict: Cli) -> None:
    result = predict(tmp_path)
    assert result.exit_code == 1
    assert "none found" in result.stderr


def test_a_missing_folder_is_named(tmp_path: Path, train: Cli, predict: Cli) -> None:
    missing = tmp_path / "not here"
    assert f"no folder '{missing}': give the folder" in error_of(train(missing), 1)
    assert f"no file or folder '{missing}': check the path" in error_of(predict(missing), 1)


def test_an_empty_class_folder_is_named(data: Path, train: Cli) -> None:
    folder = data / "train" / "NORMAL"
    shutil.rmtree(folder)
    folder.mkdir()
    error = error_of(train(data), 1)
    assert f"class folder '{folder}' holds no image: " in error


def test_one_class_alone_is_refused(data: Path, train: Cli) -> None:
    shutil.rmtree(data / "train" / "PNEUMONIA")
    error = error_of(train(data), 1)
    assert f"no class folder 'PNEUMONIA' in '{data / 'train'}'" in error
    assert "--classes" in error


def test_a_folder_without_permission_is_named(
    data: Path, train: Cli, predict: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed, scandir = data / "train" / "NORMAL", os.scandir

    def guarded(path: Path | str | int) -> object:  # chmod does not bind root
        if str(path) == str(closed):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    for result in (train(data), predict(data)):
        assert f"cannot read folder '{closed}': Permission denied; " in error_of(result, 1)


def test_links_in_a_circle_are_skipped(data: Path, train: Cli, predict: Cli) -> None:
    folder = data / "val" / "NORMAL"
    files = {path.name for path in folder.iterdir()}
    (folder / "again").symlink_to(folder)
    (folder / "itself").symlink_to("itself")
    result = predict(folder)
    assert result.exit_code == 0, result.stderr
    assert rows_of(result).keys() == files
    result = train(data, *TOO_LARGE)
    error_of(result, 2)
    assert "skipped: 1 links in a circle, 1 without ending" in result.stderr


@pytest.mark.parametrize("shared", ["image", "patient"])
def test_leakage_is_refused_unless_allowed(shared: str, data: Path, train: Cli) -> None:
    leaked = next((data / "train" / "NORMAL").iterdir())
    if shared == "image":
        shutil.copy(leaked, data / "test" / "NORMAL" / "copy.jpeg")
    else:
        GREY.save(data / "test" / "NORMAL" / leaked.name)
    error = error_of(train(data), 3)
    assert {"image": "0 patients and 1 identical", "patient": "1 patients and 0"}[shared] in error
    assert "--allow-leakage" in error
    assert "batch_size = 4096" in error_of(train(data, "--allow-leakage", *TOO_LARGE), 2)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--network", "resnet43"), "'resnet43': did you mean 'resnet34'?"),
        (("--metric", "acuracy"), "'acuracy' is not one of 'auc', 'accuracy'"),
        (("--epochs", 0), "epochs = 0 is out of range: give 1 to 10000"),
        (("--epochs", "many"), "'many' is not a valid integer"),
        (("--experiment", "resnet43"), "no experiment 'resnet43': did you mean 'resnet34'?"),
        (("--experiment", "gone.toml"), "no experiment 'gone.toml'"),
        (("--classes", "NORMAL"), "classes = 'NORMAL': name two classes"),
        (("--patient-pattern", "("), "patient_pattern '(' is no regular expression"),
        (TOO_LARGE, "batch_size = 4096 is larger than the"),
    ],
)
def test_a_wrong_option_is_refused_with_the_right_one(
    arguments: tuple[object, ...], says: str, xrays: Path, train: Cli
) -> None:
    assert says in error_of(train(xrays, *arguments), 2)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[training]\nepoch = 3", "unknown key 'epoch': did you mean 'epochs'?"),
        ("[data]\nclases = 'A,B'", "unknown key 'clases': did you mean 'classes'?"),
        ("[training]\ndropout = 2", "dropout = 2 is out of range: give 0 to 0.95"),
        ("[training]\nmetric = 'acuracy'", "'acuracy': did you mean 'accuracy'?"),
        ("training = 3", "training = 3: write a table [training]"),
        ("space = 3", "space = 3: write a table [space]"),
        ("[training\n", "not TOML"),
        ("a = " + "[" * 5_000, "not an experiment: it is nested too deeply"),
        ("a = " + "1" * 5_000, "not TOML: Exceeds the limit"),
        ("a." * 10_000 + "b = 1", "20,005 bytes, over the 20,000 of any experiment file"),
    ],
    ids=lambda value: value[:20],
)
def test_a_wrong_experiment_file_is_named_with_its_key(
    text: str, says: str, tmp_path: Path, xrays: Path, train: Cli
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    error = error_of(train(xrays, "--experiment", file), 2)
    assert str(file) in error
    assert says in error


def test_an_unknown_network_in_an_experiment_file_is_refused(
    tmp_path: Path, xrays: Path, run_cli: Cli
) -> None:
    """The name is checked where the experiment is used, and the nearest one is named."""
    file = tmp_path / "mine.toml"
    file.write_text("[training]\nnetwork = 'simple_cn'")
    store = f"sqlite:///{tmp_path}/mlflow.db"
    result = run_cli("train", "--data", xrays, "--experiment", file, "--tracking-uri", store)
    assert "unknown network 'simple_cn': did you mean 'simple_cnn'?" in error_of(result, 2)


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("models:/resnet43/1", "no registered model 'resnet43': did you mean 'resnet34'?"),
        ("models:/resnet34/99", "'resnet34' has no version '99': its versions are 1"),
        ("models:/resnet34/one", "'resnet34' has no version 'one': its versions are 1"),
        ("models:/resnet34", "'resnet34' has no version '': its versions are 1"),
        ("models:/resnet34@best", "'resnet34' has no alias 'best': its versions are 1"),
        ("models:/", "no registered model ''"),
        (
            "models:/m-0123456789abcdef",
            "no model 'models:/m-0123456789abcdef' in this store: the l",
        ),
        ("runs:/0123456789abcdef/model", "no run '0123456789abcdef' in this store"),
        ("runs:/", "model URI 'runs:/' names nothing: write models:/NAME/VERSION"),
        ("resnet34", "model URI 'resnet34' names nothing: write models:/NAME/VERSION"),
        ("https://example.invalid/m", "names nothing: write models:/NAME/VERSION"),
    ],
)
def test_a_model_uri_that_names_nothing_is_refused(
    uri: str, says: str, xrays: Path, predict: Cli
) -> None:
    assert says in error_of(predict(xrays / "val", model=uri), 1)


OURS = {
    "network": "simple_cnn",
    "image_size": 32,
    "resize": "stretch",
    "class_names": ["NORMAL", "PNEUMONIA"],
}


@pytest.mark.parametrize(
    ("config", "weights"),
    [
        (None, b""),
        ("[]", b""),
        ("not JSON", b""),
        (json.dumps(OURS | {"network": "vgg16"}), b""),
        (json.dumps(OURS | {"image_size": "big"}), b""),
        (json.dumps(OURS | {"colour": 1}), b""),
        (json.dumps(OURS), b""),
        (json.dumps(OURS), b"no tensors"),
        (json.dumps(OURS), pickle.dumps(print)),
    ],
)
def test_a_model_that_is_not_ours_is_refused_and_its_code_not_run(
    config: str | None, weights: bytes, tmp_path: Path, xrays: Path, predict: Cli
) -> None:
    folder = tmp_path / "model"
    if config is not None:
        (folder / "artifacts").mkdir(parents=True)
        (folder / "MLmodel").touch()
        (folder / "artifacts" / "config.json").write_text(config)
        (folder / "artifacts" / "weights.pt").write_bytes(weights)
    else:
        folder.mkdir()
    says = f"model '{folder}'" if config is not None else f"folder '{folder}' holds no model"
    assert says in error_of(predict(xrays / "val", model=folder), 1)


def test_a_file_is_no_model(xrays: Path, predict: Cli) -> None:
    file = next((xrays / "val" / "NORMAL").iterdir())
    assert f"'{file}' names nothing" in error_of(predict(file, model=file), 1)


def test_a_server_that_refuses_is_told_at_once(xrays: Path, train: Cli) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{probe.getsockname()[1]}"
        started = time.monotonic()
        error = error_of(train(xrays, "--tracking-uri", uri), 1)
    assert time.monotonic() - started < 10
    assert f"'{uri}' does not answer" in error
    assert "refused" in error
    assert "--tracking-uri" in error


@pytest.mark.parametrize(
    "uri",
    ["nonsense://here", "sqlite:////proc/none/mlflow.db", "postgresql://nobody@127.0.0.1:9/runs"],
)
def test_a_store_that_cannot_be_is_named(uri: str, xrays: Path, train: Cli) -> None:
    assert uri.removeprefix("sqlite:///") in error_of(train(xrays, "--tracking-uri", uri), 1)


@pytest.fixture
def new_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PNEUMONIA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_too_little_disk_for_the_cache_is_told_before_decoding(
    new_cache: Path, xrays: Path, train: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))
    error = error_of(train(xrays), 1)
    assert f"'{new_cache}' has 0.0 GiB free" in error
    assert "PNEUMONIA_CACHE" in error


def test_a_disk_that_fills_up_leaves_no_half_cache(
    new_cache: Path, xrays: Path, train: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = np.lib.format.write_array_header_1_0

    def full(out: BinaryIO, header: dict[str, object]) -> None:
        if header["shape"][0]:  # the pixels are written, and now their number
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(out, header)

    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", full)
    error = error_of(train(xrays), 1)
    assert f"cannot write the image cache '{new_cache}': No space left on device" in error
    assert "PNEUMONIA_CACHE" in error
    assert not [path for path in new_cache.iterdir() if path.is_dir()]  # locks may stay


@pytest.mark.slow
@pytest.mark.xdist_group("forks")
def test_a_stopped_run_is_killed_and_keeps_what_it_logged(
    workplace: Path, store: str, xrays: Path, forks: Forks
) -> None:
    """By Ctrl-C; ``test_resume`` stops runs by SIGTERM."""
    command = ["train", "--data", str(xrays), *QUICK, "--epochs", "5000"]
    command += ["--tracking-uri", store, "--experiment-name", "stopped"]
    process = forks.call(workplace, {}, "train", pneumonia, command)
    wait_for("epoch 1/", workplace / "train.err")
    os.kill(process.pid, signal.SIGINT)
    process.join(timeout=60)
    said = (workplace / "train.err").read_text()
    assert process.exitcode == 130, said
    assert said.splitlines()[-1] == "Interrupted: what was logged so far is kept."
    assert "Traceback" not in said
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("stopped")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "KILLED"
    assert client.get_metric_history(run.info.run_id, "val/auc")[0].step == 1
