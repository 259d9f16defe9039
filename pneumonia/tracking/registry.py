"""The model registry: the versions of a network, and the aliases that point at one of them.

A version carries what it was validated with as tags: ``metric``, the metric that chose it;
``val.METRIC``, its validation metrics; ``data.validation``, the digest of the validation images;
``data.synthetic``, whether it was trained on synthetic images. Comparisons read these tags only.
``champion.since`` and ``champion.until`` say when the alias came to a version, and when it left.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime

import mlflow
from filelock import FileLock
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from pneumonia.config.training import is_better
from pneumonia.errors import CheckError, ModelError, UsageError
from pneumonia.files import state_folder
from pneumonia.tracking.model_files import DIGEST_TAG
from pneumonia.tracking.model_uris import find_version, locate_model
from pneumonia.tracking.paging import search_all
from pneumonia.tracking.runs import Run

CHAMPION = "champion"
_CHECKED = ("sensitivity", "specificity", "balanced_accuracy")


def register(
    model_uri: str,
    run: Run,
    name: str,
    *,
    metric: str,
    validation: Mapping[str, float],
    tags: Mapping[str, str],
    description: str = "",
) -> tuple[str, str]:
    """Make a new version of a registered model, and the champion if it may be and is better.

    A run has one version: where a process that died had registered it already, that one is kept.

    Args:
        model_uri: The logged model.
        run: The run that logged it.
        name: The registered model's name.
        metric: The validation metric that chose the model.
        validation: Its validation metrics, ``auc``, ``sensitivity`` and so on.
        tags: Tags of the version, ``data.validation`` and ``data.synthetic`` among them.
        description: Of the version, in Markdown.

    Returns:
        The version's URI, and what became of the alias ``champion``, as a sentence.

    Raises:
        ModelError: The registry refuses.
        TrackingError: The store does not come back.
    """
    client = run.outbox.client
    values = {f"val.{key}": repr(validation[key]) for key in dict.fromkeys((metric, *_CHECKED))}
    own = {**tags, "run_id": run.id, "metric": metric, **values}

    def digest_tag() -> dict[str, str]:
        logged = client.get_logged_model(model_uri.removeprefix("models:/"))
        return {DIGEST_TAG: logged.tags[DIGEST_TAG]}

    def version_of_the_run() -> str:
        for version in search_all(client.search_model_versions, f"name='{name}'"):
            if version.tags.get("run_id") == run.id:
                return str(version.version)
        return str(mlflow.register_model(model_uri, name, tags=own | digest_tag()).version)

    def describe() -> None:
        client.update_model_version(name, number, description)

    def promote_if_better() -> str:
        with _alias_lock():
            return _promote_if_better(client, name, number)

    try:
        number = run.outbox.ask(version_of_the_run)
        run.outbox.ask(describe)
        verdict = run.outbox.ask(promote_if_better)
    except MlflowException as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"cannot register {name!r} from {model_uri}: {reason}") from error
    return f"models:/{name}/{number}", verdict


def promote(model_uri: str, alias: str = CHAMPION, *, require_better: bool = False) -> str:
    """Move an alias to a version, as a user decides.

    Args:
        model_uri: A registered version in any form of ``model_uris``, by its logged model too.
        alias: The alias to move.
        require_better: Whether the version must beat the one that has the alias now.

    Returns:
        From which version to which the alias moved, and what speaks against it, as a sentence.

    Raises:
        CheckError: ``require_better``, and the version is not better or cannot be compared.
        ModelError: The URI names nothing, or a model that is not registered.
        UsageError: MLflow does not allow such an alias.
        TrackingError: The store does not answer.
    """
    client = mlflow.MlflowClient()
    version = _registered(client, model_uri)
    name, number = str(version.name), str(version.version)
    with _alias_lock():
        holder = _holder(client, name, alias)
        if holder and str(holder.version) == number:
            return f"{name}: version {number} is {alias} already"
        better, comparison = _compare(version, holder)
        if require_better and not better:
            stays = f"{alias} stays version {holder.version}" if holder else f"{alias} is not set"
            raise CheckError(f"{name}: {stays}: {comparison}")
        try:
            _move(client, alias, version, holder)
        except MlflowException as error:
            raise UsageError(f"alias = {alias!r}: {str(error).splitlines()[0]}") from None
    moved = f"moved from version {holder.version} to" if holder else "set, for the first time, to"
    against = _reason_against(version)
    note = f"; note that {against}" if against and against != comparison else ""
    undo = _how_to_undo(holder, alias)
    return f"{name}: {alias} {moved} version {number}: {comparison}{note}{undo}"


def _promote_if_better(client: mlflow.MlflowClient, name: str, number: str) -> str:
    """Move ``champion`` to a version unless something speaks against it; say what and why."""
    version = client.get_model_version(name, number)
    holder = _holder(client, name, CHAMPION)
    if holder and str(holder.version) == number:
        return f"version {number} is the champion"
    better, reason = False, _reason_against(version)
    if not reason:
        better, reason = _compare(version, holder)
        # An explicit promotion of the demo's model must not keep out the first real one.
        if holder and _is_synthetic(holder):
            better, reason = True, f"version {holder.version} was trained on synthetic images"
    if better:
        _move(client, CHAMPION, version, holder)
        return f"version {number} is the new champion: {reason}{_how_to_undo(holder, CHAMPION)}"
    kept = f"version {holder.version} stays champion" if holder else "there is no champion"
    return f"{kept}: {reason}; to decide otherwise: pneumonia promote models:/{name}/{number}"


def _move(
    client: mlflow.MlflowClient, alias: str, version: ModelVersion, holder: ModelVersion | None
) -> None:
    """Move an alias to a version, and note in both versions' tags when that was."""
    name, now = str(version.name), datetime.now(UTC).isoformat(timespec="seconds")
    client.set_registered_model_alias(name, alias, str(version.version))
    client.set_model_version_tag(name, str(version.version), f"{alias}.since", now)
    if f"{alias}.until" in version.tags:
        client.delete_model_version_tag(name, str(version.version), f"{alias}.until")
    if holder:
        client.set_model_version_tag(name, str(holder.version), f"{alias}.until", now)


def _how_to_undo(holder: ModelVersion | None, alias: str) -> str:
    if holder is None:
        return ""
    option = "" if alias == CHAMPION else f" --alias {alias}"
    return f"; to undo: pneumonia promote models:/{holder.name}/{holder.version}{option}"


def _compare(version: ModelVersion, holder: ModelVersion | None) -> tuple[bool, str]:
    """Whether a version beats the one that has the alias, and the reason."""
    metric = version.tags.get("metric", "")
    value = _value(version, metric)
    if math.isnan(value):
        return False, f"version {version.version} has no validation metric that is a number"
    if reason := _one_class(version):
        return False, reason
    if holder is None:
        return True, "no version had the alias"
    if reason := _incomparable(version, holder):
        return False, reason
    held = _value(holder, metric)
    return is_better(metric, value, held), (
        f"validation {metric} of version {version.version} is {value:.4f}, "
        f"of version {holder.version} {held:.4f}"
    )


def _incomparable(version: ModelVersion, holder: ModelVersion) -> str:
    """Why two versions cannot be compared; empty where they can."""
    if "metric" not in holder.tags:
        return f"version {holder.version} does not say how it was validated"
    if version.tags.get("data.validation") != holder.tags.get("data.validation"):
        return (
            f"versions {version.version} and {holder.version} were validated on different images, "
            "so they cannot be compared"
        )
    if version.tags["metric"] != holder.tags["metric"]:
        return (
            f"version {holder.version} was chosen by {holder.tags['metric']}, "
            f"version {version.version} by {version.tags['metric']}"
        )
    return ""


def _reason_against(version: ModelVersion) -> str:
    """Why a version must not become champion unasked; empty where nothing speaks against it."""
    if _is_synthetic(version):
        return f"version {version.version} was trained on synthetic images"
    return _one_class(version)


def _one_class(version: ModelVersion) -> str:
    """In what way a version tells the classes no better than chance; empty where it does."""
    sensitivity, specificity, balanced = (_value(version, key) for key in _CHECKED)
    number = version.version
    if sensitivity == 0:
        return f"version {number} calls every validation image negative (sensitivity 0)"
    if specificity == 0:
        return f"version {number} calls every validation image positive (specificity 0)"
    if balanced <= 1 / 2:
        return (
            f"version {number} is no better than chance on the validation images "
            f"(balanced accuracy {balanced:.4f})"
        )
    return ""


def _is_synthetic(version: ModelVersion) -> bool:
    return bool(version.tags.get("data.synthetic") == "true")


def _value(version: ModelVersion, metric: str) -> float:
    """A validation metric of a version; NaN where it has none."""
    try:
        return float(version.tags.get(f"val.{metric}", "nan"))
    except ValueError:
        return math.nan


def _holder(client: mlflow.MlflowClient, name: str, alias: str) -> ModelVersion | None:
    """The version that has an alias."""
    number = client.get_registered_model(name).aliases.get(alias)
    return client.get_model_version(name, str(number)) if number is not None else None


def _registered(client: mlflow.MlflowClient, model_uri: str) -> ModelVersion:
    """The version that a URI names, directly or by the logged model that it was made of."""
    location = locate_model(model_uri)
    if location.registered:
        return find_version(location.uri)
    for version in search_all(client.search_model_versions):
        if location.model_id and version.source == f"models:/{location.model_id}":
            return version
    raise ModelError(
        f"model {model_uri!r} is not registered: register it in 'pneumonia ui', or train with "
        "--register true"
    )


@contextmanager
def _alias_lock() -> Iterator[None]:
    """Keep other processes from moving an alias between the comparison and the move.

    MLflow has no means to compare and set at once. Of two processes that both beat the champion,
    the worse could otherwise move the alias last.
    """
    state_folder().mkdir(parents=True, exist_ok=True)
    with FileLock(state_folder() / "champion.lock"):
        yield
