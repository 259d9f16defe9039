"""``pneumonia predict --track``: a batch of predictions as an MLflow run."""

import logging
from collections.abc import Iterable
from pathlib import Path

from pneumonia.evaluation.drift import ScoreDrift
from pneumonia.prediction.batch import PredictionCounts
from pneumonia.tracking.model_files import LoadedModel
from pneumonia.tracking.run_lifecycle import NewRun, parent_run
from pneumonia.tracking.runs import Run
from pneumonia.tracking.store import choose_experiment

log = logging.getLogger(__name__)


def log_prediction(
    model: LoadedModel,
    images: Iterable[str | Path],
    output: Path | None,
    counts: PredictionCounts,
    *,
    experiment_name: str | None = None,
) -> str:
    """Log a batch as an MLflow run that is linked to the model: counts, rates, drift, and its rows.

    Logs a warning where their distribution has drifted from that of the validation images.

    Args:
        model: The model.
        images: What was classified, as ``predict_to_file`` took it.
        output: The file with the rows, if there is one.
        counts: What ``predict_to_file`` returned.
        experiment_name: MLflow experiment to log to, as ``train`` takes it.

    Returns:
        Id of the run.

    Raises:
        TrackingError: The store does not answer.
    """
    experiment_id = choose_experiment(experiment_name)
    new = NewRun(f"predict-{model.config.network}", {"kind": "predict"}, experiment_id)
    with parent_run(new) as run:
        run.log_parameters({"model_uri": model.uri, "paths": " ".join(map(str, images))})
        by_result = {**counts.results, "warning": counts.warnings}
        run.log_metrics({f"count/{key}": count for key, count in by_result.items()})
        n_images = max(counts.results.total(), 1)
        run.log_metrics({f"rate/{key}": count / n_images for key, count in by_result.items()})
        if counts.drift is not None and counts.drift.counts.any():
            _log_drift(run, counts.drift, model.uri)
        run.tag({"model_uri": model.uri, "model.run_id": model.run_id or ""})
        if output is not None and output.is_file():
            run.log_file(output.name, output.read_bytes())
        return run.id


def _log_drift(run: Run, drift: ScoreDrift, model_uri: str) -> None:
    from pneumonia.evaluation.drift_figure import drift_figure

    index, bound = drift.index, drift.bound
    run.log_metrics({"drift/stability_index": index, "drift/bound": bound})
    title = f"{model_uri}: population stability index {index:.2f}, bound {bound:.2f}"
    run.log_figure(drift_figure(drift, title=title), "drift")
    if index > bound:
        log.warning(
            "the distribution of the probabilities differs from that of the validation images "
            "(population stability index %.2f, bound %.2f): if the prevalence differs, give it by "
            "--prevalence; else recalibrate the model on labelled images of this source",
            index,
            bound,
        )
