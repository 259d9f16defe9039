"""Batch scoring on a Spark cluster, for what outgrows one machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pneumonia import __version__
from pneumonia.data.decode_ahead import File
from pneumonia.errors import DataError, UsageError
from pneumonia.prediction.batch import COLUMNS, PredictionCounts, gate_column
from pneumonia.tracking.model_files import LoadedModel
from pneumonia.tracking.models import runs_known_code

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_IMAGES_A_JOB = 5_000
"""Images whose rows are written together; a job that is stopped loses those under way at most."""

RESULT_TYPE = "label string, probability double, threshold double, status string, reason string"


def score_on_spark(
    model: LoadedModel,
    files: Iterable[File],
    output: Path,
    master: str,
    counts: PredictionCounts,
    *,
    threshold: float | None = None,
    gate: bool = True,
    trust_model_code: bool = False,
    on_batch: Callable[[int], None] = lambda _n_images: None,
) -> None:
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
        counts: What becomes of the images, added to; those left out as ``there already``.
        threshold: Lowest probability called positive, 0–1; the model's own by default.
        gate: Whether images that look like no chest X-ray, or unlike those that the model was
            trained on, get no probability.
        trust_model_code: Whether to run a scoring source that is not this package's own.
        on_batch: Called with the number of images scored so far.

    Raises:
        DataError: The output holds another model's rows, or the cluster fails.
        UsageError: pyspark is not installed, the threshold is not 0–1, the model has other code, or
            a file is in an archive or at a URL.
    """
    least = model.threshold(threshold)
    if not (trust_model_code or runs_known_code(model)):
        raise UsageError(
            f"--spark runs the code stored with {model.uri}, which is not that of this version of "
            "the package: add --trust-model-code if you know where the model comes from"
        )
    try:
        from pyspark.errors import PySparkException
        from pyspark.sql import SparkSession
    except ImportError:
        raise UsageError("--spark needs pyspark: pip install 'pneumonia[spark]'") from None
    paths = map(_path_for_all, files)
    first = list(islice(paths, 1))  # Spark takes seconds to start: refuse before
    # Each worker process computes alone on its core.
    builder = SparkSession.builder.master(master).appName("pneumonia predict")
    try:
        spark = builder.config("spark.executorEnv.OMP_NUM_THREADS", "1").getOrCreate()
        try:
            spark.sparkContext.setLogLevel("ERROR")
            done = _scored_already(spark, output, model.uri, least)
            score = _scorer(spark, model, least, gate=gate)
            for of_job in _jobs(chain(first, paths), done, counts.results):
                # Workers have another working folder.
                named = [(path, str(Path(path).absolute())) for path in of_job]
                frame = spark.createDataFrame(named, "path string, file string")
                scored = score(frame).cache()
                scored.write.mode("append").parquet(str(output))
                grouped = scored.groupBy("label", "status").count().collect()
                for row in grouped:
                    counts.add(row.label, row.status, row["count"])
                scored.unpersist()
                on_batch(counts.results.total() - counts.results["there already"])
        finally:
            spark.stop()
    except PySparkException as error:
        raise DataError(f"Spark at {master!r} failed: {str(error).splitlines()[0]}") from error


def _jobs(paths: Iterator[str], done: set[str], counts: Counter[str]) -> Iterator[list[str]]:
    while of_job := list(islice(paths, _IMAGES_A_JOB)):
        new = [path for path in of_job if path not in done]
        if n_there := len(of_job) - len(new):
            counts["there already"] += n_there
        if new:
            yield new


def _path_for_all(file: File) -> str:
    if not isinstance(file, Path):
        raise UsageError(
            f"--spark reads files that all machines see under one path, not {str(file)!r}: copy "
            "what is at a URL, and unpack archives, to a shared folder"
        )
    return str(file)


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
    spark: SparkSession, model: LoadedModel, threshold: float, *, gate: bool
) -> Callable[[DataFrame], DataFrame]:
    """What adds the columns to a frame of paths."""
    import mlflow
    from pyspark.sql import functions as sql

    classify = mlflow.pyfunc.spark_udf(
        spark,
        model.uri,
        result_type=RESULT_TYPE,
        env_manager="local",
        params={"threshold": threshold, "gate": gate},
    )
    constant = {
        "threshold": threshold,
        "model": model.uri,
        "run": model.run_id or "",
        "gate": gate_column(gate=gate),
        "temperature": model.config.temperature,
        "intercept": model.config.intercept,
        "version": __version__,
    }
    read = _reader()

    def score(frame: DataFrame) -> DataFrame:
        loaded = frame.mapInPandas(
            read, "path string, content binary, failure string, sha256 string"
        )
        image = sql.struct(sql.col("content").alias("image"))
        result = loaded.withColumn("row", classify(image))
        unread = sql.col("failure").isNotNull()
        found = {
            "path": sql.col("path"),
            "label": sql.coalesce(sql.col("row.label"), sql.lit("")),
            "probability": sql.col("row.probability"),
            "status": sql.when(unread, "error").otherwise(sql.col("row.status")),
            "reason": sql.coalesce(sql.col("failure"), sql.col("row.reason")),
            "sha256": sql.col("sha256"),
            "coverage": sql.lit(None).cast("double"),
        }
        columns = {name: sql.lit(value) for name, value in constant.items()} | found
        return result.select(*(columns[name].alias(name) for name in COLUMNS))

    return score


def _reader() -> Any:
    """What reads files on a worker; defined inside another function, it travels there by itself."""

    def read(batches: Any) -> Any:
        from base64 import b64encode
        from hashlib import sha256
        from pathlib import Path

        import pandas as pd

        for batch in batches:
            # A few at a time: files are much larger than their rows.
            for start in range(0, len(batch), 16):
                rows: list[tuple[str, bytes, str | None, str]] = []
                some = batch[start : start + 16]
                for path, file in zip(some["path"], some["file"], strict=True):
                    try:
                        content = Path(file).read_bytes()
                        # Bytes that are all ASCII, as no image's are, would be taken for base64.
                        sent = b64encode(content) if content.isascii() else content
                        rows.append((path, sent, None, sha256(content).hexdigest()))
                    except OSError as error:
                        rows.append((path, b"", error.strerror, ""))
                yield pd.DataFrame(rows, columns=["path", "content", "failure", "sha256"])

    return read
