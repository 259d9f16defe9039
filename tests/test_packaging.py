import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import click
import mlflow
import pytest
import yaml
from click.testing import Result

from pneumonia.cli import cli
from pneumonia.tracking.run_lifecycle import NewRun, parent_run
from pneumonia.tracking.store import choose_experiment, connect, create_once
from tests.faults.commands import Forks

ROOT = Path(__file__).parents[1]
PROJECT = yaml.safe_load((ROOT / "MLproject").read_text())


def command_of(entry_point: str) -> tuple[click.Command, str]:
    template = PROJECT["entry_points"][entry_point]["command"]
    name = template.split()[3]
    return cli.commands[name], template


@pytest.mark.parametrize("entry_point", PROJECT["entry_points"])
def test_entry_points_pass_the_commands_own_options_and_defaults(entry_point: str) -> None:
    command, template = command_of(entry_point)
    options = {parameter.name: parameter for parameter in command.params}
    assert template.startswith("python -m pneumonia ")
    for name, declared in PROJECT["entry_points"][entry_point]["parameters"].items():
        assert f"{{{name}}}" in template
        if name == "images":  # an argument
            continue
        assert f"--{name.replace('_', '-')} {{{name}}}" in template
        assert declared["type"] == (
            "float" if options[name].type.name.startswith("int") else "string"
        )
        if "default" in declared:
            assert declared["default"] == options[name].default
        else:
            # evaluate takes a table of predictions as well, but a project's entry point does not
            assert options[name].required or (entry_point, name) == ("evaluate", "model_uri")


def test_conda_installs_the_project_itself_beside_a_pinned_python() -> None:
    conda = yaml.safe_load((ROOT / PROJECT["conda_env"]).read_text())
    python, _, pip = conda["dependencies"]
    assert re.fullmatch(r"python=3\.\d+\.\d+", python)
    assert pip == {"pip": ["."]}


def test_help_is_quick_because_heavy_packages_stay_outside() -> None:
    code = (
        "import sys; from pneumonia.cli import cli; cli(['train', '-h'], standalone_mode=False);"
        "print({'torch', 'mlflow', 'optuna', 'sklearn', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_predict_imports_nothing_that_it_does_not_use(
    trained: SimpleNamespace, xrays: Path
) -> None:
    """Each of these would take from a tenth of a second to two before the first image."""
    heavy = {
        *("torchvision", "torch._dynamo", "sklearn", "scipy.optimize", "optuna", "matplotlib"),
        *("mlflow", "sqlalchemy", "alembic", "pandas"),
    }
    code = (
        "import sys; from pneumonia.cli import cli; cli(sys.argv[1:], standalone_mode=False);"
        f"print({heavy} & set(sys.modules))"
    )
    image = next((xrays / "test" / "NORMAL").iterdir())
    predict = ["predict", "--model-uri", "models:/resnet34/1", image]
    store = ["--tracking-uri", trained.tracking_uri]
    done = subprocess.run(
        [sys.executable, "-c", code, *predict, *store], capture_output=True, text=True, check=True
    )
    assert image.name in done.stdout
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.slow
def test_a_training_without_a_search_does_not_import_optuna(xrays: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from torch.optim.optimizer import register_optimizer_step_post_hook as hook;"
        "hook(lambda *_: sys.exit(str({'optuna', 'torchvision'} & set(sys.modules))));"
        "from pneumonia.cli import cli; cli(sys.argv[1:], standalone_mode=False)"
    )
    train = ["train", "--data", str(xrays), "--experiment", "simple_cnn", "--image-size", "32"]
    done = subprocess.run(
        [sys.executable, "-c", code, *train],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.splitlines()[-1] == "set()"


@pytest.mark.parametrize("spelling", ["--batch-size", "--batch_size"])
def test_options_are_known_by_both_spellings(spelling: str, run_cli: Callable[..., Result]) -> None:
    result = run_cli("train", spelling, "0")
    assert result.exit_code == 2
    assert "batch_size = 0 is out of range" in result.stderr


CONDA = """#!/usr/bin/env bash
case "$1 $2" in
  "env list") echo '{"envs": []}' ;;
  "env create") echo "$@" >> "$(dirname "$0")/../created" ;;
  *) echo conda ;;
esac
"""


@pytest.fixture
def conda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A conda that notes which environments it is asked for, and activates the present one."""
    home = tmp_path / "conda"
    (home / "bin").mkdir(parents=True)
    (home / "etc/profile.d").mkdir(parents=True)
    (home / "bin/conda").write_text(CONDA)
    (home / "bin/conda").chmod(0o755)
    (home / "etc/profile.d/conda.sh").write_text(
        f'conda() {{ export PATH="{Path(sys.executable).parent}:$PATH"; }}\n'
    )
    monkeypatch.setenv("MLFLOW_CONDA_HOME", str(home))
    return home


def mlflow_run(
    folder: Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mlflow", "run", str(ROOT), *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def quick(**more: str) -> list[str]:
    settings = {"network": "simple_cnn", "epochs": "1", "image_size": "32", "batch_size": "8"}
    return [part for key, value in (settings | more).items() for part in ("-P", f"{key}={value}")]


@pytest.mark.slow
def test_mlflow_run_trains_in_the_run_it_started_with_conda(
    workplace: Path, xrays: Path, conda: Path
) -> None:
    done = mlflow_run(workplace, "-e", "train", *quick(data=str(xrays), learning_rate="1e-3"))
    assert done.returncode == 0, done.stderr
    assert "conda.yaml" in (conda / "created").read_text()
    client = mlflow.MlflowClient(f"sqlite:///{workplace}/mlflow.db")
    (run,) = client.search_runs(["0"])
    assert run.info.status == "FINISHED"
    assert run.data.params["trials"] == "1"  # as typed; what was resolved stands beside it
    assert run.data.tags["network"] == "simple_cnn"
    printed = re.search(r"test +accuracy (\d\.\d+)", done.stdout)
    assert printed is not None, done.stdout
    assert run.data.metrics["test/accuracy"] == pytest.approx(float(printed[1]), abs=5e-4)
    assert client.get_model_version("simple_cnn", "1").run_id == run.info.run_id
    assert "models:/simple_cnn/1" in done.stdout


@pytest.mark.slow
def test_a_failing_child_fails_the_run(workplace: Path) -> None:
    activated = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    options = ("--env-manager", "local", "-e", "train", "-P", "data=nowhere")
    done = mlflow_run(workplace, *options, PATH=activated)
    assert done.returncode == 1
    assert "no folder" in done.stderr
    client = mlflow.MlflowClient(f"sqlite:///{workplace}/mlflow.db")
    (run,) = client.search_runs(["0"])
    assert run.info.status == "FAILED"


def begin_a_run() -> None:
    connect()
    with parent_run(NewRun("one", {}, choose_experiment("together"))):
        pass


@pytest.mark.slow
@pytest.mark.xdist_group("forks")
def test_three_processes_may_start_at_once_on_an_empty_folder(
    empty_folder: Path, forks: Forks
) -> None:
    processes = [forks.call(empty_folder, {}, name, begin_a_run) for name in "abc"]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    client = mlflow.MlflowClient(f"sqlite:///{empty_folder}/mlflow.db")
    experiment = client.get_experiment_by_name("together")
    assert len(client.search_runs([experiment.experiment_id])) == 3
    assert experiment.artifact_location == (empty_folder / "mlruns" / "together").as_uri()


def test_a_store_whose_making_was_interrupted_is_made_anew(empty_folder: Path) -> None:
    def interrupted(database: Path) -> None:
        database.write_bytes(b"half a database")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        create_once(empty_folder / "mlflow.db", interrupted)
    assert not (empty_folder / "mlflow.db").exists()
    connect()
    assert mlflow.MlflowClient().search_experiments()
    assert not list(empty_folder.glob(".mlflow.db*"))
