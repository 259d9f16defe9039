"""How a run was invoked: all that it takes to go on with it, kept with the run."""

import json
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pneumonia.config.checking import as_parameters
from pneumonia.config.data import DEMO, DataSettings
from pneumonia.config.experiment import Experiment
from pneumonia.config.space import Dimension
from pneumonia.config.training import TrainingSettings
from pneumonia.data.dataset import DataSet
from pneumonia.errors import UsageError
from pneumonia.search.study import SearchSettings
from pneumonia.tracking.local_state import LocalState
from pneumonia.tracking.runs import Run, end_if_dead, read_text
from pneumonia.tracking.store import tracking_uri

_FILE = "run_config.json"


@dataclass(frozen=True, slots=True)
class RunConfig:
    """A resolved ``pneumonia train``.

    Attributes:
        experiment: What to run.
        search: How to search.
        register_winner: Whether to register the winner.
    """

    experiment: Experiment
    search: SearchSettings
    register_winner: bool

    @property
    def searching(self) -> bool:
        """Whether it is a search, not one training run."""
        return bool(self.search.study)

    def named(self) -> "RunConfig":
        """Make it a search, and give its study a name where the user gave none."""
        name = self.search.study or f"{self.experiment.name}-{uuid.uuid4().hex[:8]}"
        return replace(self, search=replace(self.search, study=name))

    def keep(self, run: Run) -> None:
        """Keep it with the run: on this machine, and in the run's artifacts for others."""
        experiment = self.experiment
        data = {**as_parameters(experiment.data)}
        if data["data"] != DEMO:
            data["data"] = str(Path(data["data"]).absolute())
        content = {
            "tracking_uri": tracking_uri(),
            "experiment": {
                "name": experiment.name,
                "training": as_parameters(experiment.training),
                "data": data,
                "space": {key: asdict(value) for key, value in experiment.space.items()},
            },
            "search": asdict(self.search),
            "register_winner": self.register_winner,
        }
        run.local.write_run_config(content)
        run.log_text(json.dumps(content, indent=1), _FILE)


def log_run_config(run: Run, run_config: RunConfig, data: DataSet) -> None:
    """Log what is known before the first epoch: the data, and all resolved settings."""
    experiment, search = run_config.experiment, run_config.search
    run_config.keep(run)
    run.log_data_set(data)
    run.log_parameters(as_parameters(experiment.training))
    run.log_parameters(as_parameters(experiment.data))
    run.log_parameters({"experiment": experiment.name, "trials": search.trials})


def kept_tracking_uri(run_id: str) -> str | None:
    """Where a run is tracked, as far as this machine knows."""
    return LocalState(run_id).tracking_uri


def read_run_config(run_id: str, *, local: bool = False) -> RunConfig:
    """How a run was invoked.

    Args:
        run_id: The run.
        local: Whether to leave the tracking store alone, and know only what is kept on disk.

    Raises:
        UsageError: The run is none of ``pneumonia train``, or is not known here.
    """
    content = LocalState(run_id).read_run_config_file()
    if content is None and local:
        raise UsageError(
            f"run {run_id} is not known on this machine: set PNEUMONIA_STATE to a folder that all "
            "machines share"
        )
    content = content or _stored(run_id)
    experiment = content["experiment"]
    space = {
        key: Dimension(**{**value, "choices": tuple(value["choices"])})
        for key, value in experiment["space"].items()
    }
    return RunConfig(
        Experiment(
            experiment["name"],
            TrainingSettings(**experiment["training"]),
            DataSettings(**experiment["data"]),
            space,
        ),
        SearchSettings(**content["search"]),
        content["register_winner"],
    )


def run_config_to_resume(run_id: str, *, local: bool = False) -> RunConfig:
    """How a run that is to go on was invoked; one that died before it told is ended as KILLED.

    Arguments as for ``read_run_config``.

    Raises:
        UsageError: The run cannot go on.
    """
    try:
        return read_run_config(run_id, local=local)
    except UsageError:
        if local or not end_if_dead(run_id):
            raise
    raise UsageError(
        f"run {run_id!r} died before it had said how it was invoked, and is ended as KILLED: "
        "begin it anew"
    )


def _stored(run_id: str) -> dict[str, Any]:
    text = read_text(run_id, _FILE)
    if text is None:
        raise UsageError(
            f"run {run_id!r} cannot be resumed: it was not begun by 'pneumonia train', or is in "
            "another store (see --tracking-uri)"
        )
    stored: dict[str, Any] = json.loads(text)
    return stored
