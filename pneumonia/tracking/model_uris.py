"""Model URIs: every form that MLflow documents, and what each one names.

``models:/NAME/VERSION``, ``models:/NAME@ALIAS``, ``models:/NAME/latest``, ``models:/m-ID``,
``runs:/RUN_ID/NAME`` and the local folder of a model.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

import mlflow
from mlflow.entities import LoggedModel, LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from pneumonia.errors import ModelError, TrackingError, nearest
from pneumonia.tracking.model_files import DIGEST_TAG, ModelLocation
from pneumonia.tracking.outbox import is_outage
from pneumonia.tracking.paging import search_all

T = TypeVar("T")

_FORMS = (
    "models:/NAME/VERSION, models:/NAME@ALIAS, models:/NAME/latest, models:/m-ID, "
    "runs:/RUN_ID/NAME or a model's folder"
)
_LISTED = 5


def locate_model(uri: str) -> ModelLocation:
    """Find the model that a URI names.

    Raises:
        ModelError: The URI names nothing; the message says what exists.
        TrackingError: The store does not answer.
    """
    if uri.startswith("models:/"):
        name = uri.removeprefix("models:/").strip("/")
        if name.startswith("m-") and not {"/", "@"} & set(name):
            return _location_of(_logged_model(name), f"models:/{name}")
        version = find_version(uri)
        uri = f"models:/{version.name}/{version.version}"
        run_id = version.run_id or version.tags.get("run_id")
        recorded = version.tags.get(DIGEST_TAG, "")
        return ModelLocation(uri, uri, run_id, registered=True, sha256=recorded)
    if uri.startswith("runs:/"):
        return _model_of_run(uri)
    folder = Path(url2pathname(urlsplit(uri).path)) if uri.startswith("file:") else Path(uri)
    if not folder.is_dir():
        raise ModelError(f"model URI {uri!r} names nothing: write {_FORMS}")
    if not (folder / "MLmodel").is_file():
        raise ModelError(f"folder {uri!r} holds no model: give the one with the file 'MLmodel'")
    return ModelLocation(uri, str(folder.absolute()), None)


def find_version(uri: str) -> ModelVersion:
    """Find the version of a registered model by its number, its alias, or as the latest.

    Args:
        uri: ``models:/NAME/VERSION``, ``models:/NAME@ALIAS`` or ``models:/NAME/latest``.

    Raises:
        ModelError: There is no such model or version; the message says which there are.
        TrackingError: The store does not answer.
    """
    client = mlflow.MlflowClient()
    rest = uri.removeprefix("models:/").strip("/")
    name, alias, wanted = *rest.partition("@")[::2], ""
    if not alias:
        name, _, wanted = rest.partition("/")
    model = _ask(lambda: client.get_registered_model(name)) if name else None
    if model is None:
        known = [model.name for model in search_all(client.search_registered_models)]
        hint = nearest(name, known) if known else "nothing is registered in this store"
        raise ModelError(f"no registered model {name!r}: {hint}")
    numbers = sorted(
        int(version.version)
        for version in search_all(client.search_model_versions, f"name='{name}'")
    )
    if alias:
        number = str(model.aliases.get(alias, ""))
    else:
        number = str(numbers[-1]) if wanted == "latest" and numbers else wanted
    if not number.isdecimal() or int(number) not in numbers:
        asked = f"alias {alias!r}" if alias else f"version {wanted!r}"
        versions = ", ".join(map(str, numbers)) or "none"
        aliases = ", ".join(sorted(model.aliases)) or "none"
        raise ModelError(
            f"{name!r} has no {asked}: its versions are {versions}, its aliases {aliases}"
        )
    return client.get_model_version(name, number)


def _location_of(model: LoggedModel, uri: str) -> ModelLocation:
    recorded = model.tags.get(DIGEST_TAG, "")
    return ModelLocation(
        uri, model.artifact_location, model.source_run_id, model.model_id, sha256=recorded
    )


def _logged_model(model_id: str) -> LoggedModel:
    client = mlflow.MlflowClient()
    model = _ask(lambda: client.get_logged_model(model_id))
    if model is None:
        experiments = [item.experiment_id for item in search_all(client.search_experiments)]
        newest = [{"field_name": "creation_timestamp", "ascending": False}]
        found = client.search_logged_models(experiments, max_results=_LISTED, order_by=newest)
        latest = ", ".join(f"models:/{item.model_id}" for item in found) or "none"
        raise ModelError(f"no model 'models:/{model_id}' in this store: the latest are {latest}")
    return model


def _model_of_run(uri: str) -> ModelLocation:
    """The model that a run logged under a name, or one that it holds as artifacts."""
    run_id, _, name = uri.removeprefix("runs:/").strip("/").partition("/")
    if not run_id or not name:
        raise ModelError(f"model URI {uri!r} names nothing: write {_FORMS}")
    client = mlflow.MlflowClient()
    run = _ask(lambda: client.get_run(run_id))
    if run is None:
        raise ModelError(f"no run {run_id!r} in this store: check {uri!r}")
    of_run = f"source_run_id = '{run_id}'"
    found = search_all(client.search_logged_models, [run.info.experiment_id], of_run)
    models = [model for model in found if model.status == LoggedModelStatus.READY]
    for model in models:
        if model.name == name:
            return _location_of(model, uri)
    # MLflow 2 stored a model among the artifacts of its run.
    if any(item.path == f"{name}/MLmodel" for item in client.list_artifacts(run_id, name)):
        return ModelLocation(uri, uri, run_id)
    known = ", ".join(f"runs:/{run_id}/{model.name}" for model in models) or "none"
    raise ModelError(f"run {run_id!r} has no model {name!r}: it has {known}")


def _ask(question: Callable[[], T]) -> T | None:
    """What the store answers; None where it has no such thing."""
    try:
        return question()
    except MlflowException as error:
        if is_outage(error):
            reason = str(error).splitlines()[0]
            raise TrackingError(f"the tracking store does not answer ({reason})") from error
        return None
