"""The only place that talks to MLflow: the store, runs, models and their registry."""

import os

# Set before MLflow is first imported: nothing is reported to anyone, and no lock file of a
# neighbouring project travels with a model.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOG_UV_FILES", "false")
