"""The only place that talks to MLflow: the store, runs, models and their registry."""

import logging
import os

# Set before MLflow is first imported: nothing is reported to anyone, no lock file of a
# neighbouring project travels with a model, and what MLflow tells on the way (tables created,
# files copied) does not stand between our lines. Its warnings do.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOG_UV_FILES", "false")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

# Standard output holds results; links belong to 'pneumonia ui'.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

# A store that does not answer is our outbox's business: minutes of MLflow's own attempts would only
# hold training up, and its tracebacks say no more than the one warning of ours.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
for name in ("mlflow.store.db.utils", "urllib3.connectionpool"):
    logging.getLogger(name).setLevel(logging.CRITICAL)
