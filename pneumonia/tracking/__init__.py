"""The only place that talks to MLflow: the store, runs, models and their registry."""

import os

# Set before MLflow is first imported: nothing is reported to anyone, no lock file of a
# neighbouring project travels with a model, and what MLflow tells on the way (tables created,
# files copied) does not stand between our lines. Its warnings do.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOG_UV_FILES", "false")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
