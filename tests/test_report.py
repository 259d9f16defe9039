"""The record of a trained model: card, report page, subgroups, and how often it was tested."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import pytest
from click.testing import Result

from pneumonia.evaluation.document import Section, as_html, as_markdown
from pneumonia.evaluation.predictions import Predictions
from pneumonia.evaluation.subgroups import groups_of, subgroups

Cli = Callable[..., Result]


class _Page(HTMLParser):
    """Collects what a browser would load, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [str(value) for name, value in attrs if name in ("src", "href")]
        assert tag != "script"

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_says_what_the_run_measured_and_loads_nothing(
    trained: SimpleNamespace,
) -> None:
    client = mlflow.MlflowClient(trained.tracking_uri)
    (run,) = client.search_runs(["0"], "tags.kind = 'train'")
    mlflow.set_tracking_uri(trained.tracking_uri)
    page = _Page()
    page.feed(mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/report.html"))
    assert all(url.startswith("data:image/png;base64,") for url in page.loaded)
    assert len(page.loaded) == 11
    metrics = run.data.metrics
    low, high = metrics["test/auc_low"], metrics["test/auc_high"]
    assert f"{metrics['test/auc']:.3f} ({low:.3f}–{high:.3f})" in page.text
    assert f"from a probability of {metrics['threshold']:g} on" in page.text
    assert run.info.run_id in page.text
    assert "not a medical device" in page.text

    card = client.get_model_version("resnet34", "1").description
    assert card.startswith("## Purpose and limits")
    assert f"| auc | {metrics['test/auc']:.3f} ({low:.3f}–{high:.3f}) |" in card


@pytest.mark.slow
def test_how_often_test_images_were_scored_is_counted(
    xrays: Path, workplace: Path, run_cli: Cli
) -> None:
    del workplace
    quick = ("--epochs", "1", "--image-size", "32", "--batch-size", "8")
    result = run_cli("train", "--data", xrays, *quick)
    assert result.exit_code == 0, result.stderr
    assert "scored these test images" not in result.stdout
    result = run_cli("evaluate", "--model-uri", "models:/resnet34/1", "--data", xrays)
    assert "scored by 2 runs of this store" in result.stdout
    result = run_cli("train", "--data", xrays, *quick, "--seed", "1", "--experiment-name", "other")
    assert "3 runs of this store scored these test images" in result.stdout
    # Other images than the test images are not counted.
    result = run_cli(
        "evaluate", "--model-uri", "models:/resnet34/1", "--data", xrays, "--split", "train"
    )
    assert "runs of this store" not in result.stdout


def test_a_subgroup_is_measured_on_its_own_images() -> None:
    truth = np.array([1, 1, 1, 1, 0, 0])
    table = Predictions(
        list("abcdef"), list("abcdef"), list("abcdef"), truth,
        np.array([0.9, 0.9, 0.9, 0.1, 0.2, 0.8]), 0.5, ("N", "P"),
    )  # fmt: skip
    bacteria = np.array([True, True, False, False, False, False])
    virus = np.array([False, False, True, True, False, False])
    rows = {
        (row.name, row.metric): row
        for row in subgroups(table, {"bacteria": bacteria, "virus": virus})
    }
    assert rows["all", "sensitivity"].value == 0.75
    assert rows["all", "specificity"].value == 0.5
    assert rows["bacteria", "sensitivity"].value == 1
    assert rows["virus", "sensitivity"].value == 0.5
    assert rows["virus", "sensitivity"].interval == (0, 1)
    assert ("virus", "specificity") not in rows


def test_columns_make_groups_of_their_values_and_thirds_of_their_numbers() -> None:
    rng = np.random.default_rng(0)
    known = [
        {
            "sex": "FM"[n % 2] if n < 80 else "",
            "age": str(n),
            "note": f"seen by {n}",
            "ward": "rare" if n < 5 else "A",
            "device": "one",
            "missing": "",
            "nan": rng.choice(["nan", "1"]),
        }
        for n in range(90)
    ]
    groups = groups_of(known)
    assert {name: int(members.sum()) for name, members in groups.items() if "nan" not in name} == {
        "sex F": 40,
        "sex M": 40,
        "age 0–29": 30,
        "age 30–59": 30,
        "age 60–89": 30,
        "ward A": 85,
    }
    assert groups["age 30–59"][30:60].all()


def test_an_image_without_a_number_is_in_no_third() -> None:
    known = [{"age": "" if n % 3 == 0 else str(n)} for n in range(90)]
    groups = groups_of(known)
    assert sum(int(members.sum()) for members in groups.values()) == 60
    assert not any(members[::3].any() for members in groups.values())
    assert groups_of([{}, {"age": "nan"}, {"age": ""}]) == {}


def test_a_table_of_labels_brings_its_columns_as_subgroups(
    trained: SimpleNamespace, xrays: Path, tmp_path: Path, run_cli: Cli
) -> None:
    files = sorted((xrays / "train").rglob("*.jpeg"))
    rows = [f"{f.name},{f.parent.name},{'FM'[n % 2]},{n}" for n, f in enumerate(files)]
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(["path,label,Sex,Age", *rows]))
    model = ("--model-uri", "models:/resnet34/1", "--tracking-uri", trained.tracking_uri)
    data = ("--data", xrays / "train", "--labels", table, "--split", "all")
    result = run_cli("evaluate", *model, *data, "--experiment-name", "by table")
    assert result.exit_code == 0, result.stderr
    client = mlflow.MlflowClient(trained.tracking_uri)
    experiment = client.get_experiment_by_name("by table")
    (run,) = client.search_runs([experiment.experiment_id])
    measured = set(run.data.metrics)
    assert {f"test/sensitivity_sex {sex}" for sex in "FM"} <= measured
    thirds = {key for key in measured if re.fullmatch(r"test/sensitivity_age \d+-\d+", key)}
    assert len(thirds) == 3
    assert {f"{key}_low" for key in thirds} <= measured


@pytest.mark.parametrize("nasty", ["<script>alert(1)</script>", "a | b", "`x`\ny"])
def test_names_of_any_characters_stay_text(nasty: str) -> None:
    section = Section(nasty, nasty, [("name",), (nasty,)])
    page = _Page()
    page.feed(as_html(nasty, [section], {}))
    assert nasty in page.text
    row = as_markdown([section]).splitlines()[-1]
    assert row.replace("\\|", "").count("|") == 2
