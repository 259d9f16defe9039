"""The champion: who becomes it by itself, and how a user moves an alias."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pytest
from click.testing import Result

from pneumonia.tracking.registry import register
from pneumonia.tracking.run_lifecycle import NewRun, start_run
from pneumonia.tracking.runs import Run
from pneumonia.tracking.store import choose_experiment, connect

Cli = Callable[..., Result]

GOOD = {"auc": 0.9, "sensitivity": 0.9, "specificity": 0.8, "balanced_accuracy": 0.85}


@pytest.fixture
def store(trained: SimpleNamespace, tmp_path: Path) -> SimpleNamespace:
    """A copy of the trained store, whose one logged model can be registered under any name."""
    with (
        closing(sqlite3.connect(trained.folder / "mlflow.db")) as there,
        closing(sqlite3.connect(tmp_path / "mlflow.db")) as here,
    ):
        there.backup(here)  # what is still in the write-ahead log too
    uri = connect(f"sqlite:///{tmp_path}/mlflow.db")
    choose_experiment("Default")
    client = mlflow.MlflowClient()
    (model,) = client.search_logged_models(["0"])
    return SimpleNamespace(uri=uri, client=client, model=f"models:/{model.model_id}")


def add(
    store: SimpleNamespace, *, synthetic: bool = False, data: str = "a", **values: float
) -> str:
    """Register a version with these validation metrics; what became of the champion."""
    run: Run = start_run(NewRun("run", {}, "0"))
    tags = {"data.validation": data, "data.synthetic": str(synthetic).lower()}
    _, verdict = register(
        store.model, run, "net", metric="auc", validation={**GOOD, **values}, tags=tags
    )
    return verdict


def champion(store: SimpleNamespace) -> str:
    return str(store.client.get_registered_model("net").aliases.get("champion", ""))


def test_a_model_trained_on_synthetic_data_never_becomes_champion(store: SimpleNamespace) -> None:
    """The first model of real images takes the alias, whatever the demo's model scored."""
    verdict = add(store, synthetic=True, auc=1.0)
    assert "there is no champion: version 1 was trained on synthetic images" in verdict
    assert "pneumonia promote models:/net/1" in verdict
    assert champion(store) == ""
    assert "version 2 is the new champion" in add(store, auc=0.7)
    assert champion(store) == "2"


def test_a_promoted_demo_model_does_not_keep_out_the_first_real_one(
    store: SimpleNamespace, run_cli: Cli
) -> None:
    """A user may promote the demo's model, and a real one still takes the alias from it."""
    add(store, synthetic=True, auc=1.0, data="demo")
    moved = run_cli("promote", "models:/net/1", "--tracking-uri", store.uri)
    assert moved.exit_code == 0
    assert "note that version 1 was trained on synthetic images" in moved.stdout
    add(store, auc=0.7)
    assert champion(store) == "2"


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"sensitivity": 0.0, "balanced_accuracy": 0.5}, "calls every validation image negative"),
        ({"specificity": 0.0, "balanced_accuracy": 0.5}, "calls every validation image positive"),
        ({"balanced_accuracy": 0.5}, "is no better than chance"),
        ({"auc": float("nan")}, "has no validation metric that is a number"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_model_that_tells_nothing_is_never_champion(
    first: bool, values: dict[str, float], says: str, store: SimpleNamespace
) -> None:
    """One class for everything, chance, or a NaN: the verdict says why the alias stays."""
    if not first:
        add(store, auc=0.6)
    assert says in add(store, **{"auc": 1.0, **values})
    assert champion(store) == ("" if first else "1")


def test_champions_are_compared_on_the_same_images_only(
    store: SimpleNamespace, run_cli: Cli
) -> None:
    """Where they differ the verdict names the command, and the command moves the alias."""
    add(store, auc=0.8)
    assert "version 1 stays champion" in add(store, auc=0.7)
    assert "version 3 is the new champion" in add(store, auc=0.9)
    verdict = add(store, auc=0.99, data="b")
    assert "validated on different images" in verdict
    assert "pneumonia promote models:/net/4" in verdict
    assert champion(store) == "3"

    where = ("--tracking-uri", store.uri)
    refused = run_cli("promote", "models:/net/4", "--require", "better", *where)
    assert refused.exit_code == 3
    assert "validated on different images" in refused.stderr
    assert champion(store) == "3"
    moved = run_cli("promote", "models:/net/4", *where)
    assert moved.exit_code == 0
    assert "champion moved from version 3 to version 4" in moved.stdout
    assert champion(store) == "4"
    again = run_cli("promote", "models:/net/latest", *where)
    assert "version 4 is champion already" in again.stdout


def test_a_move_says_how_to_undo_it_and_leaves_its_history(
    store: SimpleNamespace, run_cli: Cli
) -> None:
    def history(number: str) -> set[str]:
        tags = store.client.get_model_version("net", number).tags
        return {key for key in tags if key.startswith("champion.")}

    assert "to undo" not in add(store, auc=0.8)
    undo = "; to undo: pneumonia promote models:/net/1"
    assert add(store, auc=0.9).endswith(undo)
    assert history("1") == {"champion.since", "champion.until"}
    assert history("2") == {"champion.since"}
    back = run_cli(*undo.partition("pneumonia ")[2].split(), "--tracking-uri", store.uri)
    assert back.exit_code == 0
    assert back.stdout.strip().endswith("; to undo: pneumonia promote models:/net/2")
    assert champion(store) == "1"
    assert history("1") == {"champion.since"}
    assert history("2") == {"champion.since", "champion.until"}


@pytest.mark.slow
@pytest.mark.usefixtures("workplace")
def test_training_says_what_became_of_the_champion(xrays: Path, run_cli: Cli) -> None:
    """A network that calls all one class is registered, not champion, and the reason is said."""
    quick = ("--epochs", "1", "--image-size", "32", "--batch-size", "8", "--threshold", "1")
    result = run_cli("train", "--data", xrays, *quick)
    assert result.exit_code == 0, result.stderr
    assert "models:/resnet34/1 (there is no champion: version 1 calls every" in result.stdout
    (version,) = mlflow.MlflowClient().search_model_versions("name='resnet34'")
    assert version.tags["data.synthetic"] == "false"  # drawn, but given as a folder of images
    assert 0 <= float(version.tags["val.auc"]) <= 1


def test_an_alias_moves_only_to_a_better_version_where_that_is_required(
    store: SimpleNamespace, run_cli: Cli
) -> None:
    """Any alias, by any form of URI; exit code 3 where the version is not better."""
    for auc in (0.8, 0.7, 0.9):
        add(store, auc=auc)
    where = ("--alias", "trial", "--tracking-uri", store.uri)
    assert run_cli("promote", "models:/net/1", *where).exit_code == 0
    worse = run_cli("promote", "models:/net/2", "--require", "better", *where)
    assert worse.exit_code == 3
    assert "trial stays version 1" in worse.stderr
    better = run_cli("promote", "models:/net@champion", "--require", "better", *where)
    assert better.exit_code == 0
    assert "trial moved from version 1 to version 3" in better.stdout
    assert "no registered model 'nett'" in run_cli("promote", "models:/nett/1", *where).stderr


def test_the_version_of_a_run_is_found_behind_a_hundred_others(store: SimpleNamespace) -> None:
    """MLflow answers page by page: no page is forgotten when a run registers again."""
    run = start_run(NewRun("run", {}, "0"))
    tags = {"data.validation": "a", "data.synthetic": "false"}
    uri, _ = register(store.model, run, "net", metric="auc", validation=GOOD, tags=tags)
    for _ in range(120):
        store.client.create_model_version("net", store.model)
    for number in range(110):
        store.client.create_registered_model(f"another-{number:03}")
    again, _ = register(store.model, run, "net", metric="auc", validation=GOOD, tags=tags)
    assert again == uri == "models:/net/1"
