"""What a run needs to be resumed or reproduced, kept with the run."""

import json
import uuid
from pathlib import Path
from typing import Any, Self

from pneumonia.config.data import DEMO
from pneumonia.config.experiment import Experiment
from pneumonia.config.search import SearchSettings
from pneumonia.config.settings import Settings
from pneumonia.data.dataset import DataSet
from pneumonia.errors import UsageError
from pneumonia.tracking.local_state import LocalState
from pneumonia.tracking.run_lifecycle import end_if_dead
from pneumonia.tracking.runs import Run, read_text
from pneumonia.tracking.store import tracking_uri

_FILE = "run_config.json"


class RunConfig(Settings):
    """A resolved ``pneumonia train`` or ``cross-validate``.

    Attributes:
        experiment: What to run.
        search: How to search.
        register_winner: Whether to register the winner.
        seeds: With how many seeds to train.
    """

    experiment: Experiment
    search: SearchSettings
    register_winner: bool
    seeds: int = 1

    @property
    def searching(self) -> bool:
        """Whether it is a search, not one training run."""
        return bool(self.search.study)

    @property
    def cross_validating(self) -> bool:
        """Whether it is a cross-validation; a search may score its trials by folds too."""
        return self.search.folds > 1 and not self.searching

    def as_search(self) -> Self:
        """Make it a search, and give its study a name where the user gave none."""
        name = self.search.study or f"{self.experiment.name}-{uuid.uuid4().hex[:8]}"
        return self.with_values(search=self.search.with_values(study=name))

    def keep(self, run: Run) -> None:
        """Write it to this machine, and to the run's artifacts for other machines."""
        data = self.experiment.data
        if data.data != DEMO:
            data = data.with_values(data=str(Path(data.data).absolute()))
        kept = self.with_values(experiment=self.experiment.with_values(data=data))
        content = {"tracking_uri": tracking_uri(), **kept.model_dump(mode="json")}
        run.local.write_run_config(content)
        run.log_text(json.dumps(content, indent=1), _FILE)


def log_run_config(run: Run, run_config: RunConfig, data: DataSet) -> None:
    """Log what is known before the first epoch: the data, and all resolved settings."""
    experiment, search = run_config.experiment, run_config.search
    run_config.keep(run)
    run.log_data_set(data)
    run.log_parameters(experiment.training.parameters() | experiment.data.parameters())
    run.log_parameters(
        {"experiment": experiment.name, "trials": search.trials, "folds": search.folds}
    )


def kept_tracking_uri(run_id: str) -> str | None:
    """The tracking store of a run, as far as this machine knows."""
    return LocalState(run_id).tracking_uri


def read_run_config(run_id: str, *, local: bool = False) -> RunConfig:
    """Read the configuration of a run.

    Args:
        run_id: The run.
        local: Whether to read this machine's files only, and not the tracking store.

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
    del content["tracking_uri"]
    try:
        return RunConfig(**content)
    except UsageError as error:
        raise UsageError(
            f"run {run_id} was started by another version of this package ({error}): resume it "
            "with that version, or start it anew"
        ) from None


def run_config_to_resume(run_id: str, *, local: bool = False) -> RunConfig:
    """Read the configuration of a run to resume.

    A run whose process stopped before it logged its configuration is ended as KILLED.

    Arguments as for ``read_run_config``.

    Raises:
        UsageError: The run cannot be resumed.
    """
    try:
        return read_run_config(run_id, local=local)
    except UsageError:
        if local or not end_if_dead(run_id):
            raise
    raise UsageError(
        f"run {run_id!r} died before it logged its configuration, and is now KILLED: start it again"
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
