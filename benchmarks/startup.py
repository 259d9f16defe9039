"""How long commands take before they do their work: help, one prediction, the first training step.

python -m benchmarks.startup --data chest_xray --repeats 5

Images are decoded and the model is registered beforehand. Beside them stand what is not ours: the
interpreter itself, and the imports of torch and MLflow.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click

from benchmarks.report import Figure, ratios, report
from pneumonia.config.data import DEMO
from pneumonia.data.dataset import demo_folder
from pneumonia.data.folders import walk_images

PNEUMONIA = ("-m", "pneumonia")

_STEPPED = 42
_UNTIL_FIRST_STEP = f"""
import os, sys
from torch.optim.optimizer import register_optimizer_step_post_hook
register_optimizer_step_post_hook(lambda *_: os._exit({_STEPPED}))
from pneumonia.cli import main
main()
"""
_TORCH = "import torch"
_IMPORTS = "import torch, mlflow"


def seconds_of(arguments: Sequence[str], folder: Path, exit_code: int = 0) -> float:
    """Wall seconds of a Python command that keeps runs, studies and state in a folder.

    Raises:
        ClickException: It ended with another exit code.
    """
    # A tracking store or run of the user's must not be written to.
    own = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    own |= {"PNEUMONIA_STATE": str(folder / "state"), "MLFLOW_DISABLE_TELEMETRY": "true"}
    with tempfile.TemporaryFile() as said:
        started = time.perf_counter()
        ended = subprocess.run(
            [sys.executable, *arguments],
            cwd=folder,
            env=own,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            check=False,
        )
        seconds = time.perf_counter() - started
        if ended.returncode != exit_code:
            said.seek(0)
            last = said.read().decode(errors="replace").strip()[-500:]
            raise click.ClickException(f"{arguments} ended with {ended.returncode}: {last}")
    return seconds


def absolute(data: str) -> str:
    """A data set as commands started in another folder find it."""
    return data if data == DEMO else str(Path(data).absolute())


@click.command()
@click.option("--network", default="resnet34", show_default=True)
@click.option("--image-size", default=64, show_default=True)
@click.option("--batch-size", default=32, show_default=True)
@click.option("--data", default=DEMO, show_default=True)
@click.option("--subset", default=0.2, show_default=True, help="Share of patients trained on.")
@click.option("--repeats", default=5, show_default=True, help="Starts of each command.")
def main(
    network: str, image_size: int, batch_size: int, data: str, subset: float, repeats: int
) -> None:
    """Start each command in turn, and print how long it took."""
    train = [
        *("train", "--data", absolute(data), "--subset", str(subset), "--network", network),
        *("--image-size", str(image_size), "--batch-size", str(batch_size), "--epochs", "1"),
    ]
    with tempfile.TemporaryDirectory(dir=Path.home()) as name:
        folder = Path(name)
        seconds_of([*PNEUMONIA, *train], folder)
        image = next(walk_images(demo_folder() if data == DEMO else Path(absolute(data))))
        predict = ("predict", "--model-uri", f"models:/{network}/1", str(image))
        commands: dict[str, tuple[Sequence[str], int]] = {
            "python -c pass": (("-c", "pass"), 0),
            _TORCH: (("-c", _TORCH), 0),
            _IMPORTS: (("-c", _IMPORTS), 0),
            "pneumonia --help": ((*PNEUMONIA, "--help"), 0),
            "pneumonia predict, one image": ((*PNEUMONIA, *predict), 0),
            "pneumonia train, to its first step": (("-c", _UNTIL_FIRST_STEP, *train), _STEPPED),
        }
        taken: dict[str, list[float]] = {what: [] for what in commands}
        for _ in range(repeats):
            for what, (arguments, exit_code) in commands.items():
                taken[what].append(seconds_of(arguments, folder, exit_code))
    floor, torch, imports, helped, predicted, trained = taken
    figures = [
        Figure(floor, taken[floor], "s"),
        Figure(torch, taken[torch], "s"),
        Figure(imports, taken[imports], "s"),
        Figure(helped, taken[helped], "s", "little more than the interpreter"),
        Figure(predicted, taken[predicted], "s", "1.25 times import torch, and the work"),
        Figure(trained, taken[trained], "s", "not below the imports"),
        Figure("predict over import torch", ratios(taken[predicted], taken[torch])),
        Figure("train beyond the imports", _beyond(taken[trained], taken[imports]), "s"),
    ]
    report("startup", figures, network=network, image_size=image_size, data=data, repeats=repeats)


def _beyond(whole: Sequence[float], part: Sequence[float]) -> list[float]:
    return [one - other for one, other in zip(whole, part, strict=True)]


if __name__ == "__main__":
    main()
