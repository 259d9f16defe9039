"""The tables of predictions that runs leave."""

from pathlib import Path

from pneumonia.errors import DataError
from pneumonia.evaluation.predictions import Predictions, read_predictions
from pneumonia.tracking.model_uris import locate_model
from pneumonia.tracking.runs import find_run, read_text


def find_predictions(source: str, role: str) -> Predictions:
    """Read a table of predictions.

    Args:
        source: A file, the id of a run, or a model's URI, which stands for the run that trained it.
        role: Which table of a run: ``test``, ``validation``, or another role it scored.

    Raises:
        DataError: There is no such table.
        ModelError: The URI names nothing.
        TrackingError: There is no such run, or the store does not answer.
    """
    if Path(source).is_file():
        return read_predictions(Path(source).read_text(encoding="utf-8"), source)
    if source.endswith(".csv"):
        raise DataError(f"there is no file {source!r}")
    names_model = ":" in source or Path(source).is_dir()
    run_id = locate_model(source).run_id if names_model else source
    if run_id is None:
        raise DataError(f"the run that trained {source!r} is not known: give its predictions")
    text = read_text(find_run(run_id).id, f"predictions_{role}.csv")
    if text is None:
        raise DataError(
            f"{source!r} has no predictions_{role}.csv: name another role by --role, or score the "
            "model by 'pneumonia evaluate' and give that run"
        )
    return read_predictions(text, source)
