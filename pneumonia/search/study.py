"""Optuna studies: where they are stored, how they sample and prune, and how they read."""

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import Dialect
from sqlalchemy.event import listen
from sqlalchemy.exc import IntegrityError, ProgrammingError

from pneumonia.checking import as_parameters
from pneumonia.errors import PneumoniaError, UsageError
from pneumonia.processes import still_works
from pneumonia.search.experiment import Experiment
from pneumonia.search.queue import TrialQueue, first_number, state_of
from pneumonia.tracking.outbox import patience
from pneumonia.tracking.store import create_once

log = logging.getLogger(__name__)

optuna.logging.set_verbosity(optuna.logging.WARNING)  # each trial is told by us, in one line

RUN = "run_id"
"""The study's attribute that names its run, which it does once it is ready."""

WINNER = "/winner-"
"""Stands between a study's name and a run's id in the name of the study that holds the claim to
log the winner."""

_SECONDS_TO_PREPARE = 120
_ATTEMPTS_TO_CREATE = 10
_SQLITE, _JOURNAL = "sqlite:///", "journal:///"
_HEARTBEAT_SECONDS, _GRACE_SECONDS = 20, 60


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSettings:
    """How to search.

    Attributes:
        trials: Trials of the whole study, resumed ones included; 1 is a plain training run.
        timeout: Seconds after which no new trial begins, or None.
        study: Name of the study; empty names it after the run.
        storage: Optuna storage URL; empty is an sqlite file in the working directory.
        pruner: ``median``, ``hyperband`` or ``none``.
        keep_checkpoints: ``winner`` or ``all``.
    """

    trials: int = 1
    timeout: float | None = None
    study: str = ""
    storage: str = ""
    pruner: str = "median"
    keep_checkpoints: str = "winner"


def create_study(
    experiment: Experiment, search: SearchSettings, data_digest: str
) -> optuna.Study | None:
    """Create the study; None where there is one of that name already.

    Several processes may try at once: one creates it.

    Raises:
        UsageError: The storage cannot be opened.
    """
    training = experiment.training
    try:
        study = optuna.create_study(
            study_name=search.study,
            storage=open_storage(search.storage),
            direction="maximize" if training.higher_is_better else "minimize",
            pruner=_pruner(search.pruner, training.epochs),
        )
    except DuplicatedStudyError:
        return None
    study.set_user_attr("settings", _comparable(experiment, data_digest))
    study.set_user_attr("metric", training.metric)
    return study


def open_study(name: str, storage: str) -> optuna.Study | None:
    """Open the study of a name; None where there is none.

    Raises:
        UsageError: The storage cannot be opened.
    """
    try:
        return optuna.load_study(study_name=name, storage=open_storage(storage))
    except KeyError:
        return None


def check_same(
    study: optuna.Study, experiment: Experiment, search: SearchSettings, data_digest: str
) -> None:
    """Give a study that was opened its pruner, and refuse trials that could not be compared.

    Raises:
        UsageError: The study was begun with other settings or data.
    """
    study.pruner = _pruner(search.pruner, experiment.training.epochs)
    begun, now = study.user_attrs.get("settings", {}), _comparable(experiment, data_digest)
    for key in {**begun, **now}:
        if begun.get(key) != now.get(key):
            raise UsageError(
                f"study {study.study_name!r} was begun with {key} {begun.get(key)}, not "
                f"{now.get(key)}: its trials cannot be compared; begin another with --study"
            )


def await_ready(study: optuna.Study) -> bool:
    """Wait while another process prepares the study at this moment.

    Returns:
        Whether it is ready; otherwise its creator has died on the way.
    """
    deadline = time.monotonic() + _SECONDS_TO_PREPARE
    while not study.user_attrs.get(RUN):
        if still_works(study.user_attrs) is False or time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def half_made(study: optuna.Study) -> bool:
    """Whether the study is one of ours that was never made ready."""
    attributes = study.user_attrs
    return "settings" in attributes and "run_id" not in attributes


def known_studies(storage: BaseStorage) -> list[str]:
    """Names of the studies in a storage, without those that only hold a claim to a winner."""
    return [name for name in optuna.get_all_study_names(storage) if WINNER not in name]


def sampler_of(trial_number: int, seed: int) -> optuna.samplers.BaseSampler:
    """The sampler of one trial.

    Each trial has one of its own, seeded by its number: so a search that was interrupted goes on
    with the draws it would have made, and two workers never draw alike.
    """
    return optuna.samplers.TPESampler(seed=(seed * 100_003 + trial_number) % 2**32)


def trials_table(study: optuna.Study, keys: Sequence[str], experiment_id: str) -> str:
    """The best twenty trials, best first, as a Markdown table with links to their runs."""
    every = TrialQueue(study, None).trials()
    begun = [trial for trial in ranked(study) if trial.state != TrialState.WAITING]
    metric = study.user_attrs["metric"]
    lines = [
        f"Study `{study.study_name}`: {counts_in_words(every)}",
        "",
        f"| trial | state | val {metric} | {' | '.join(keys)} |",
        "|" + "---|" * (len(keys) + 3),
    ]
    for trial in begun[:20]:
        value = "" if trial.value is None else f"{trial.value:.4f}"
        cells = [short(trial.params.get(key, "")) for key in keys]
        run_id = trial.user_attrs.get("run_id", "")
        link = f"[{first_number(trial)}](#/experiments/{experiment_id}/runs/{run_id})"
        lines.append(f"| {link} | {state_of(trial)} | {value} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def counts_in_words(trials: Sequence[FrozenTrial]) -> str:
    """How many trials are in which state: ``12 complete, 3 pruned, 1 running``."""
    counts = Counter(map(state_of, trials))
    return ", ".join(f"{count} {state}" for state, count in counts.items())


def ranked(study: optuna.Study) -> list[FrozenTrial]:
    """The trials, the best first; those that did not complete come last."""
    sign = -1 if study.direction == optuna.study.StudyDirection.MAXIMIZE else 1
    return sorted(
        TrialQueue(study, None).trials(),
        key=lambda t: (t.state != TrialState.COMPLETE, sign * (t.value or 0.0), t.number),
    )


def importances_of(study: optuna.Study) -> Mapping[str, float]:
    """Share of the metric's variation that each parameter explains (fANOVA), most first, 0–1.

    Empty where there are too few complete trials to tell.
    """
    values = [t.value for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]
    if len(values) <= 3 or len(set(values)) == 1:
        return {}
    return optuna.importance.get_param_importances(
        study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
    )


def open_storage(url: str) -> BaseStorage:
    """Open the study storage, creating the local sqlite one once.

    Args:
        url: A database URL, ``journal:///path`` for Optuna's journal in a file, or empty for
            ``optuna.db`` in the working directory.

    Raises:
        UsageError: The URL is none of Optuna's, or its database does not answer.
    """
    try:
        if database := local_file(url):
            if url.startswith(_JOURNAL):
                database.parent.mkdir(parents=True, exist_ok=True)
                return JournalStorage(JournalFileBackend(str(database)))
            create_once(database, _create_study_tables)
        return _created_by_one(lambda: _with_heartbeat(storage_url(url)))
    except (PneumoniaError, KeyboardInterrupt):
        raise
    except Exception as error:  # noqa: BLE001 - each storage has errors of its own
        first = str(error).splitlines()[0]
        raise UsageError(f"cannot open the study storage {url!r}: {first}") from None


def _created_by_one(create: Callable[[], RDBStorage]) -> RDBStorage:
    """Open a database whose tables several workers may be creating: the slower ones come again."""
    for _ in range(_ATTEMPTS_TO_CREATE - 1):
        try:
            return create()
        except (IntegrityError, ProgrammingError):
            time.sleep(1)
    return create()


def existing_storage(url: str) -> BaseStorage | None:
    """Open the study storage, but create nothing; None where its file is not there.

    Args:
        url: As ``open_storage`` takes it.

    Raises:
        UsageError: It holds no studies, or its database does not answer.
    """
    database = local_file(url)
    if database and not database.is_file():
        return None
    try:
        if database and storage_url(url).startswith(_JOURNAL):
            return JournalStorage(JournalFileBackend(str(database)))
        return _with_heartbeat(storage_url(url), skip_table_creation=True)
    except Exception as error:  # noqa: BLE001 - each storage has errors of its own
        first = str(error).splitlines()[0]
        raise UsageError(f"cannot open the study storage {storage_url(url)!r}: {first}") from None


def storage_url(url: str) -> str:
    """The storage's URL, with the local default and local paths made absolute."""
    for scheme in (_SQLITE, _JOURNAL):
        if url.startswith(scheme):
            return f"{scheme}{Path(url.removeprefix(scheme)).absolute()}"
    return url or f"{_SQLITE}{Path('optuna.db').absolute()}"


def local_file(url: str) -> Path | None:
    """The file a storage is, where it is one."""
    absolute = storage_url(url)
    for scheme in (_SQLITE, _JOURNAL):
        if absolute.startswith(scheme):
            return Path(absolute.removeprefix(scheme))
    return None


def queue_of(study: optuna.Study, storage: str) -> TrialQueue:
    """The study as a queue."""
    file = local_file(storage)
    return TrialQueue(study, file.with_name(f"{file.name}.queue.lock") if file else None)


def _with_heartbeat(url: str, *, skip_table_creation: bool = False) -> RDBStorage:
    # sqlite: others may be writing for a while. PostgreSQL: it may have been restarted.
    local = {"connect_args": {"timeout": 60}}
    storage = RDBStorage(
        url,
        engine_kwargs=local if url.startswith(_SQLITE) else {"pool_pre_ping": True},
        heartbeat_interval=_HEARTBEAT_SECONDS,
        grace_period=_GRACE_SECONDS,
        skip_table_creation=skip_table_creation,
    )
    # From now on, that is: a database that was never there is said to be missing at once.
    listen(storage.engine, "do_connect", _connect_patiently)
    return storage


def _connect_patiently(dialect: Dialect, _record: Any, arguments: Any, options: Any) -> Any:
    """Connect to a database, and wait for one that is away as long as patience lasts."""
    deadline = time.monotonic() + patience()
    said = False
    while True:
        try:
            return dialect.connect(*arguments, **options)
        except dialect.loaded_dbapi.OperationalError as error:
            if time.monotonic() > deadline:
                raise
            if not said:
                log.warning(
                    "the study storage does not answer (%s): waiting for it",
                    str(error).splitlines()[0],
                )
            said = True
            time.sleep(1)


def _create_study_tables(database: Path) -> None:
    optuna.storages.RDBStorage(f"sqlite:///{database}")


def _pruner(name: str, epochs: int) -> optuna.pruners.BasePruner:
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=epochs)
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=1)
    return optuna.pruners.NopPruner()


def short(value: Any) -> str:
    """A setting's value in few characters."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _comparable(experiment: Experiment, data_digest: str) -> Mapping[str, Any]:
    """What all trials of a study have in common, as JSON holds it."""
    fixed = {
        key: value
        for key, value in as_parameters(experiment.training).items()
        if key not in experiment.space and key not in ("device", "precision")
    }
    space = {f"space.{key}": asdict(value) for key, value in experiment.space.items()}
    common: dict[str, Any] = json.loads(json.dumps({**fixed, **space, "data.digest": data_digest}))
    return common
