"""An MLflow-tracked experiment manager for classifying chest X-rays."""

__version__ = "0.1.0"
