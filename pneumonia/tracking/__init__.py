"""The only place that talks to MLflow: the store, runs, models and their registry."""

import logging
import os

# Set before MLflow is first imported: it reports nothing to anyone, logs no lock file of a
# neighbouring project with a model, and prints warnings only, not what it creates and copies.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOG_UV_FILES", "false")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

# Standard output holds results; links belong to 'pneumonia ui'.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

# The outbox retries where a store does not answer. MLflow's own retries would make training wait
# for minutes, and its tracebacks say no more than our one warning.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
for name in ("mlflow.store.db.utils", "urllib3.connectionpool"):
    logging.getLogger(name).setLevel(logging.CRITICAL)
