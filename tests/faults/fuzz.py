"""Damaged and hostile inputs through the package's own doors, by the ten thousands.

What must hold for each: it is taken, or refused by an error that is meant for it; it does not hang,
does not take memory without bound, and makes no process, connection or file elsewhere.
"""

import json
import os
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import click

from tests.faults import fuzz_inputs
from tests.faults.report import Report

_SHARES = {
    "image": 0.35,
    "DICOM": 0.25,
    "served model": 0.15,
    "archive": 0.1,
    "table": 0.1,
    "experiment": 0.05,
}
_SLOWEST = 30.0
"""Seconds after which an input hangs."""

_MEMORY = 1.5e9
"""Bytes that the process may grow by."""

_FORBIDDEN = (
    "os.system",
    "subprocess.Popen",
    "socket.connect",
    "os.exec",
    "os.remove",
    "os.rename",
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

Door = Callable[[bytes], None]


@dataclass
class Counts:
    """What became of the inputs of one door."""

    taken: int = 0
    refused: int = 0
    slowest: float = 0.0


@dataclass
class Watch:
    """What the process does, as Python's audit events tell."""

    folder: str
    breaches: list[str] = field(default_factory=list)
    on: bool = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Note what an input must not cause."""
        if not self.on:
            return
        if event == "open":
            path, mode, flags = arguments
            writes = set("wax+") & set(mode or "") or (mode is None and flags & _WRITING)
            if writes and isinstance(path, str) and not path.startswith((self.folder, "/dev/")):
                self.breaches.append(f"opened {path!r} for writing")
        elif event in _FORBIDDEN and not str(arguments[0]).startswith(self.folder):
            self.breaches.append(f"{event} {arguments!r}"[:200])


@click.command()
@click.option("--inputs", default=20_000, show_default=True, help="Inputs in all.")
@click.option("--seed", default=0, show_default=True, help="Seed of the mutations.")
@click.option(
    "--images", type=click.Path(exists=True, path_type=Path), help="Folder of more images."
)
@click.option("--dicom", type=click.Path(exists=True, path_type=Path), help="Folder of more DICOM.")
@click.option("--keep", type=click.Path(path_type=Path), help="Folder for inputs that break it.")
def main(
    inputs: int, seed: int, images: Path | None, dicom: Path | None, keep: Path | None
) -> None:
    """Mutate whole files, and give them to each door."""
    report = Report("fuzz")
    totals: dict[str, Counts] = {}
    with tempfile.TemporaryDirectory() as folder:
        for door, share in _SHARES.items():
            seeds = _seeds(door, images, dicom)
            counts = totals[door] = Counts()
            done, wanted = 0, round(inputs * share)
            while done < wanted:  # a process that hangs or dies is replaced
                done = _run(door, seeds, seed, done, wanted, Path(folder), counts, report, keep)
            click.echo(f"{door}: {wanted:,} inputs, {counts}", err=True)
    table = {door: asdict(counts) for door, counts in totals.items()}
    report.end({"inputs": inputs, "seed": seed, "doors": table})


def _run(
    door: str,
    seeds: list[bytes],
    seed: int,
    start: int,
    end: int,
    folder: Path,
    counts: Counts,
    report: Report,
    keep: Path | None,
) -> int:
    """Give a process the inputs from ``start`` on; returns where the next one goes on."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_child, args=(theirs, door, seeds, seed, start, end, folder))
    process.start()
    theirs.close()
    number = start
    try:
        while number < end:
            limit = _SLOWEST if number > start else 20 * _SLOWEST  # imports come first
            if not ours.poll(limit):
                breach = {"does not hang": f"no answer in {_SLOWEST:g} s"}
            else:
                try:
                    seconds, taken, breach = ours.recv()
                except EOFError:
                    process.join()
                    breach = {"does not end the process": f"exit code {process.exitcode}"}
                else:
                    counts.slowest = max(counts.slowest, seconds)
                    counts.taken += taken
                    counts.refused += not taken
            case = f"{door} input {number}"
            for claim in CLAIMS:
                report.check(claim, breach.get(claim, ""), case)
            if breach and keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                content = _input(door, seeds, seed, number)
                (keep / f"{door.replace(' ', '_')}-{number}").write_bytes(content)
            number += 1
            if "does not hang" in breach or "does not end the process" in breach:
                return number
        return number
    finally:
        process.kill()
        process.join()


CLAIMS = (
    "is taken, or refused by the error for it",
    "does not hang",
    "does not end the process",
    "does not grow the process",
    "makes no file, process or connection",
)


def _child(
    pipe: Connection, door: str, seeds: list[bytes], seed: int, start: int, end: int, folder: Path
) -> None:
    os.chdir(folder)
    tempfile.tempdir = str(folder)
    warnings.simplefilter("ignore")
    os.environ["OMP_NUM_THREADS"] = "1"
    give, refusals = _door(door, folder)
    watch = Watch(str(folder))
    sys.addaudithook(watch)
    give_quietly(give, refusals, seeds[0])  # imports what it needs
    before = _peak_memory()
    for number in range(start, end):
        content = _input(door, seeds, seed, number)
        watch.breaches.clear()
        watch.on = True
        started = time.perf_counter()
        taken, breach = give_quietly(give, refusals, content)
        seconds = time.perf_counter() - started
        watch.on = False
        breaches = {CLAIMS[0]: breach} if breach else {}
        if watch.breaches:
            breaches[CLAIMS[4]] = watch.breaches[0]
        if (grown := _peak_memory() - before) > _MEMORY:
            breaches[CLAIMS[3]] = f"by {grown / 1e9:.1f} GB"
            before = _peak_memory()
        pipe.send((seconds, taken, breaches))


def give_quietly(
    give: Door, refusals: tuple[type[Exception], ...], content: bytes
) -> tuple[bool, str]:
    """Whether an input was taken, and what is wrong with how it was refused."""
    try:
        give(content)
    except refusals:
        return False, ""
    except BaseException as error:  # noqa: BLE001 - this is what is looked for
        return False, f"{type(error).__name__}: {error}"[:300]
    return True, ""


def _input(door: str, seeds: list[bytes], seed: int, number: int) -> bytes:
    """The input of a number: first the seeds themselves, then mutations."""
    if number < len(seeds):
        return seeds[number]
    random = Random(f"{door} {seed} {number}")
    return fuzz_inputs.mutated(random.choice(seeds), seeds, random)


def _seeds(door: str, images: Path | None, dicom: Path | None) -> list[bytes]:
    if door == "DICOM":
        return fuzz_inputs.dicoms(dicom)
    if door == "archive":
        return fuzz_inputs.archives(images)
    if door == "table":
        return [table.encode() for table in fuzz_inputs.TABLES] + [b"path,label\n" + b"a" * 10**6]
    if door == "experiment":
        deep = [b"a = " + b"[" * 100_000, b"a = " + b"{b = " * 100_000, b"a." * 100_000 + b"b = 1"]
        return [text.encode() for text in fuzz_inputs.EXPERIMENTS] + deep
    return fuzz_inputs.images(images)


def _door(name: str, folder: Path) -> tuple[Door, tuple[type[Exception], ...]]:
    """What takes the inputs, and the errors by which it may refuse them."""
    from pneumonia.data.decode import Preprocessing, decode_checked
    from pneumonia.data.limits import UnreadableImageError
    from pneumonia.errors import PneumoniaError

    if name in ("image", "DICOM"):
        preprocessing = Preprocessing(64)
        return lambda content: _decoded(decode_checked(content, preprocessing)), (
            UnreadableImageError,
        )
    if name == "table":
        from pneumonia.data.tables import read_records

        def read(content: bytes) -> None:
            text = content.decode("utf-8", errors="replace")
            read_records(text, "table", ("Pneumonia",), ("NORMAL", "PNEUMONIA"))

        return read, (PneumoniaError,)
    if name == "experiment":
        from pneumonia.config.experiment import load_experiment

        def load(content: bytes) -> None:
            (folder / "fuzz.toml").write_bytes(content)
            load_experiment(str(folder / "fuzz.toml"), {})

        return load, (PneumoniaError,)
    if name == "archive":
        return _in_archive(folder), (PneumoniaError,)
    return _served(folder)


def _in_archive(folder: Path) -> Door:
    """What reads every member; the file is named by what it holds."""
    from pneumonia.prediction.paths import find_paths

    starts = {b"PK": "zip", b"\x1f\x8b": "tar.gz", b"BZ": "tar.bz2", b"\xfd7": "tar.xz"}

    def read(content: bytes) -> None:
        path = folder / f"fuzz-{time.monotonic_ns()}.{starts.get(content[:2], 'tar')}"
        path.write_bytes(content)
        try:
            for member in find_paths([path]):
                with suppress(OSError):  # a damaged one does not hide the others
                    member.read_bytes()
        finally:
            path.unlink()

    return read


def _decoded(result: tuple[Any, str]) -> None:
    grey, _ = result
    assert grey.shape == (64, 64)
    assert grey.dtype == "uint8"


def _served(folder: Path) -> tuple[Door, tuple[type[Exception], ...]]:
    """An untrained network as MLflow serves it: every request is answered by a row an image."""
    import base64

    import pandas as pd
    import torch

    from pneumonia.evaluation.gate import Gate
    from pneumonia.networks.registry import NETWORKS
    from pneumonia.tracking.model_files import ModelConfig
    from pneumonia.tracking.serving import XrayClassifier

    build = NETWORKS["simple_cnn"].build
    config = ModelConfig("simple_cnn", 32, "stretch", ("NORMAL", "PNEUMONIA"))
    gate = Gate("features.7", torch.rand(32, 32), torch.zeros(2, 256), torch.eye(256), 1, 2, 0, 0.5)
    files = {name: str(folder / name) for name in ("weights", "config", "gate")}
    torch.save(build(32, 0.0).state_dict(), files["weights"])
    torch.save(gate.as_dict(), files["gate"])
    Path(files["config"]).write_text(json.dumps(asdict(config)), encoding="utf-8")
    model = XrayClassifier(build)
    model.load_context(SimpleNamespace(artifacts=files))
    whole = fuzz_inputs.images(None)[4]

    def ask(content: bytes) -> None:
        forms: Mapping[int, Any] = {
            0: content,
            1: base64.b64encode(content),
            2: base64.b64encode(content).decode(),
            3: content.decode("latin-1"),
            4: f"data:image/png;base64,{base64.b64encode(content).decode()}",
            5: len(content),
        }
        sent = forms[(len(content) + sum(content[:64])) % len(forms)]
        answers = model.predict(None, pd.DataFrame({"image": [whole, sent]}))
        assert len(answers) == 2
        assert answers["status"][0] in ("ok", "warning", "rejected")  # the other one is answered
        assert Counter(answers["status"])["error"] <= 1

    return ask, ()


def _peak_memory() -> float:
    """Bytes that the process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


if __name__ == "__main__":
    main()
