"""``pneumonia predict --spark``: a model on image files, on a Spark cluster."""

from collections.abc import Callable, Iterable
from pathlib import Path

from pneumonia.prediction.batch import PredictionCounts
from pneumonia.prediction.paths import find_paths
from pneumonia.prediction.spark import score_on_spark
from pneumonia.tracking.model_files import LoadedModel


def predict_on_spark(
    model: LoadedModel,
    images: Iterable[str | Path],
    output: Path,
    master: str,
    *,
    stdin: Iterable[str] = (),
    threshold: float | None = None,
    gate: bool = True,
    trust_model_code: bool = False,
    on_batch: Callable[[int], None] = lambda _n_images: None,
) -> PredictionCounts:
    """Classify image files on a Spark cluster, as ``score_on_spark`` says.

    Args:
        model: The model, as ``load_model`` returns it.
        images: Files, folders to search for images, or ``-`` for paths in ``stdin``.
        output: The folder for Parquet files.
        master: The cluster.
        stdin: Lines of paths.
        threshold: Lowest probability called positive, 0–1; the model's own by default.
        gate: As ``predict`` takes it.
        trust_model_code: Whether to run a scoring source that is not this package's own.
        on_batch: Called with the number of images classified so far.

    Raises:
        DataError: A file or folder does not exist, or Spark fails.
        UsageError: pyspark is not installed, the threshold is not 0–1, or the model has other code.
    """
    counts = PredictionCounts()
    files = find_paths(images, stdin, counts.skipped)
    score_on_spark(
        model,
        files,
        output,
        master,
        counts,
        threshold=threshold,
        gate=gate,
        trust_model_code=trust_model_code,
        on_batch=on_batch,
    )
    return counts
