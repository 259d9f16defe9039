"""The source that travels with a logged model: one file, which needs this package no more."""

import ast
import inspect
from types import ModuleType

from pneumonia.data import decode, dicom, input_checks, limits
from pneumonia.evaluation import decide, gate, scaling
from pneumonia.networks import ensemble, standardise
from pneumonia.networks.registry import network_named
from pneumonia.tracking import serving


def scoring_source(network: str) -> str:
    """Join all that scoring needs into one module: decoding to decision, network and gate.

    Imports between them are left out, since what they name now stands above in the same file.
    """
    build = network_named(network).build
    module = inspect.getmodule(build)
    assert module is not None
    before = (limits, dicom, input_checks, decode, scaling, decide, gate, ensemble, standardise)
    parts = [_without_own_imports(part) for part in (*before, module, serving)]
    footer = (
        "from mlflow.models import set_model\n\n"
        f"set_model(XrayClassifier({getattr(build, '__name__', network)}))\n"
    )
    return "\n\n".join([*parts, footer])


def _without_own_imports(module: ModuleType) -> str:
    source = inspect.getsource(module)
    lines = source.splitlines()
    for node in ast.parse(source).body:
        own = isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pneumonia")
        if own and node.end_lineno is not None:
            lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)
    return "\n".join(lines)
