"""An MLflow-tracked experiment manager for classifying chest X-rays.

The commands as Python functions::

    import pneumonia

    result = pneumonia.train(data="chest_xray", network="resnet34", epochs=5)
    model = pneumonia.load_model(result.model_uri)
    for row in pneumonia.predict(model, ["images/"]):
        print(row["path"], row["label"], row["probability"])
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pneumonia.errors import PneumoniaError
    from pneumonia.tracking.models import load_model
    from pneumonia.workflows.cross_validate import cross_validate
    from pneumonia.workflows.ensemble import ensemble
    from pneumonia.workflows.evaluate import evaluate
    from pneumonia.workflows.predict import predict
    from pneumonia.workflows.recalibrate import recalibrate
    from pneumonia.workflows.train import resume_run, train

__version__ = "0.1.0"
__all__ = [
    "PneumoniaError",
    "cross_validate",
    "ensemble",
    "evaluate",
    "load_model",
    "predict",
    "recalibrate",
    "resume_run",
    "train",
]

_MODULES = {
    "PneumoniaError": "pneumonia.errors",
    "cross_validate": "pneumonia.workflows.cross_validate",
    "ensemble": "pneumonia.workflows.ensemble",
    "evaluate": "pneumonia.workflows.evaluate",
    "load_model": "pneumonia.tracking.models",
    "predict": "pneumonia.workflows.predict",
    "recalibrate": "pneumonia.workflows.recalibrate",
    "resume_run": "pneumonia.workflows.train",
    "train": "pneumonia.workflows.train",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: torch and MLflow take seconds to import."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
