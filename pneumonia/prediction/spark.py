"""Batch scoring on a Spark cluster, for what outgrows one machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pneumonia.errors import DataError, UsageError
from pneumonia.prediction.batch import COLUMNS
from pneumonia.tracking.models import LoadedModel

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_IMAGES_A_JOB = 5_000
"""Images whose rows are written together; a job that is stopped loses those under way at most."""

_RESULT = "label string, probability double, threshold double, error string"


def score_on_spark(
    model: LoadedModel,
    files: Iterable[Path],
    output: Path,
    master: str,
    *,
    threshold: float | None = None,
    on_batch: Callable[[int], None] = lambda _n_images: None,
) -> Counter[str]:
    """Score images by ``mlflow.pyfunc.spark_udf``, and append their rows to a Parquet folder.

    The workers run the scoring source stored with the model, in fp32, and need the model's
    requirements but not this package. They read the files themselves, so all must see them under
    the same paths. Images whose rows the folder holds already are left out: what was stopped goes
    on when it is started again.

    Args:
        model: The model.
        files: Image files.
        output: Folder of Parquet files with the columns ``COLUMNS``.
        master: The cluster, such as ``spark://HOST:7077`` or ``local[2]``.
        threshold: Lowest probability called positive, 0–1; the model's own by default.
        on_batch: Called with the number of images scored so far.

    Returns:
        Images by label, unreadable ones as ``error``, and those left out as ``there already``.

    Raises:
        DataError: The output holds another model's rows, or the cluster fails.
        UsageError: pyspark is not installed, or the threshold is not 0–1.
    """
    least = model.threshold(threshold)
    try:
        from pyspark.errors import PySparkException
        from pyspark.sql import SparkSession
    except ImportError:
        raise UsageError("--spark needs pyspark: pip install 'pneumonia[spark]'") from None
    counts: Counter[str] = Counter()
    # Each worker process computes alone on its core.
    builder = SparkSession.builder.master(master).appName("pneumonia predict")
    try:
        spark = builder.config("spark.executorEnv.OMP_NUM_THREADS", "1").getOrCreate()
        try:
            spark.sparkContext.setLogLevel("ERROR")
            done = _scored_already(spark, output, model.uri, least)
            score = _scorer(spark, model, least)
            for paths in _jobs(files, done, counts):
                # Workers have another working folder.
                named = [(path, str(Path(path).absolute())) for path in paths]
                frame = spark.createDataFrame(named, "path string, file string")
                scored = score(frame).cache()
                scored.write.mode("append").parquet(str(output))
                grouped = scored.groupBy("label", "status").count().collect()
                counts.update({row.label or row.status: row["count"] for row in grouped})
                scored.unpersist()
                on_batch(counts.total() - counts["there already"])
        finally:
            spark.stop()
    except PySparkException as error:
        raise DataError(f"Spark at {master!r} failed: {str(error).splitlines()[0]}") from error
    return counts


def _jobs(files: Iterable[Path], done: set[str], counts: Counter[str]) -> Iterator[list[str]]:
    left = (str(file) for file in files)
    while paths := list(islice(left, _IMAGES_A_JOB)):
        new = [path for path in paths if path not in done]
        counts["there already"] += len(paths) - len(new)
        if new:
            yield new


def _scored_already(spark: SparkSession, output: Path, uri: str, threshold: float) -> set[str]:
    """Paths whose rows the output holds."""
    if not output.exists() or not any(output.glob("*.parquet")):
        return set()
    rows = spark.read.parquet(str(output))
    if tuple(rows.columns) != COLUMNS:
        raise DataError(f"{str(output)!r} holds other columns: name another folder")
    others = rows.filter((rows.model != uri) | (rows.threshold != threshold)).limit(1).collect()
    if others:
        raise DataError(
            f"{str(output)!r} holds rows of {others[0].model} at threshold "
            f"{others[0].threshold:g}, not of {uri} at {threshold:g}: name another folder"
        )
    return {row.path for row in rows.select("path").collect()}


def _scorer(
    spark: SparkSession, model: LoadedModel, threshold: float
) -> Callable[[DataFrame], DataFrame]:
    """What adds the columns to a frame of paths."""
    import mlflow
    from pyspark.sql import functions as sql

    classify = mlflow.pyfunc.spark_udf(
        spark, model.uri, result_type=_RESULT, env_manager="local", params={"threshold": threshold}
    )
    read = _reader()

    def score(frame: DataFrame) -> DataFrame:
        loaded = frame.mapInPandas(read, "path string, content binary, failure string")
        image = sql.struct(sql.col("content").alias("image"))
        result = loaded.withColumn("row", classify(image))
        error = sql.coalesce(sql.col("failure"), sql.col("row.error"))
        ok = sql.col("row.probability").isNotNull()
        return result.select(
            "path",
            sql.when(ok, sql.col("row.label")).otherwise("").alias("label"),
            sql.col("row.probability").alias("probability"),
            sql.lit(threshold).alias("threshold"),
            sql.when(ok, "ok").otherwise("error").alias("status"),
            sql.when(ok, "").otherwise(error).alias("error"),
            sql.lit(model.uri).alias("model"),
        )

    return score


def _reader() -> Any:
    """What reads files on a worker; defined inside another function, it travels there by itself."""

    def read(batches: Any) -> Any:
        from base64 import b64encode
        from pathlib import Path

        import pandas as pd

        for batch in batches:
            # A few at a time: files are much larger than their rows.
            for start in range(0, len(batch), 16):
                rows: list[tuple[str, bytes, str | None]] = []
                some = batch[start : start + 16]
                for path, file in zip(some["path"], some["file"], strict=True):
                    try:
                        content = Path(file).read_bytes()
                        # What is all ASCII, as no image is, would be taken for base64.
                        sent = b64encode(content) if content.isascii() else content
                        rows.append((path, sent, None))
                    except OSError as error:
                        rows.append((path, b"", error.strerror))
                yield pd.DataFrame(rows, columns=["path", "content", "failure"])

    return read
