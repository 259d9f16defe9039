"""The list of runs in MLflow's UI, as it is opened: the best first, with a few columns."""

import contextlib
import json
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException

from pneumonia.tracking.store import latest_experiment

_VIEW = "pneumonia"
_CURVES = ("val/auc", "val/loss", "train/loss")
_RESULTS = ("best/auc", "test/auc", "stress/auc_worst")
_COLUMNS = (
    "attributes.`Models`",
    *(f"metrics.`{key}`" for key in _RESULTS),
    "tags.`network`",
    "params.`data`",
)


def runs_page(server: str) -> str:
    """Save a view of the experiment with the latest run, and return its link.

    MLflow's UI saves a shared view as a tag of the experiment, and opens it by its key (seen with
    MLflow 3.17). Where the store refuses the tag, the link opens the default view.

    Args:
        server: Where the UI is served, without a slash at the end.
    """
    experiment = latest_experiment()
    view = {
        "orderByKey": "metrics.`best/auc`",
        "orderByAsc": False,
        "selectedColumns": _COLUMNS,
        **_charts(),
    }
    page = f"{server}/#/experiments/{experiment}/runs?workflowType=machine_learning"
    with contextlib.suppress(MlflowException):
        mlflow.MlflowClient().set_experiment_tag(
            experiment, f"mlflow.sharedViewState.{_VIEW}", json.dumps(view)
        )
        page += f"&viewStateShareKey={_VIEW}"
    return page


def _charts() -> dict[str, Any]:
    """The charts that the view opens with: curves of all runs on one axis, results as bars."""
    cards = [
        {"type": "LINE", "metricKey": key, "selectedMetricKeys": [key], "xAxisKey": "step"}
        | {"lineSmoothness": 0, "scaleType": "linear", "xAxisScaleType": "linear"}
        for key in _CURVES
    ] + [{"type": "BAR", "metricKey": key} for key in _RESULTS]
    own = {"metricSectionId": _VIEW, "deleted": False, "isGenerated": False}
    section = {"uuid": _VIEW, "name": "Comparison", "display": True, "isReordered": True}
    return {
        "compareRunCharts": [
            {"uuid": f"{_VIEW}-{card['metricKey']}", "runsCountToCompare": 10, **card, **own}
            for card in cards
        ],
        "compareRunSections": [{**section, "deleted": False, "isGenerated": False}],
        "isAccordionReordered": True,
    }
