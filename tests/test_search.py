"""How the trials of a study are shared, drawn, and run again."""

from pathlib import Path

import optuna
import pytest

from pneumonia.config.experiment import load_experiment
from pneumonia.config.search import SearchSettings
from pneumonia.search.queue import Objective, TrialFailedError, TrialQueue
from pneumonia.search.space import suggest
from pneumonia.search.storage import queue_of
from pneumonia.search.study import create_study, sampler_of
from pneumonia.search.trials import number_of, reason_of, state_of


def new_queue(storage: str, n_trials: int) -> TrialQueue:
    settings = SearchSettings(study="night", storage=storage)
    study = create_study(load_experiment("demo", {}), settings, "")
    assert study is not None
    queue = queue_of(study, storage)
    queue.fill(n_trials)
    return queue


def run_all(queue: TrialQueue, objective: Objective) -> None:
    while queue.run_next(objective):
        pass


def parameters(
    storage: str, interrupted: int | None, sampler: str = "tpe"
) -> list[dict[str, object]]:
    """Parameters of 13 trials by number, one of which is interrupted and run again."""
    queue, space = new_queue(storage, 13), load_experiment("demo", {}).space

    def objective(trial: optuna.Trial) -> float:
        queue.study.sampler = sampler_of(sampler, number_of(trial), 0)
        drawn = suggest(trial, space)
        if trial.number == interrupted:
            raise KeyboardInterrupt
        return float(sum(len(str(value)) for value in drawn.values()))

    if interrupted is not None:
        with pytest.raises(KeyboardInterrupt):
            run_all(queue, objective)
    run_all(queue, objective)
    return [trial.params for trial in queue.trials()]


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "gp", "random"])
@pytest.mark.parametrize(("interrupted", "alike"), [(3, 5), (12, 13)])
def test_the_sampler_draws_after_a_resume_what_it_would_have_drawn(
    interrupted: int, alike: int, sampler: str, tmp_path: Path
) -> None:
    """Trials keep their draws; those drawn from results see the ones that are complete."""
    undisturbed = parameters(f"sqlite:///{tmp_path}/one.db", None, sampler)
    resumed = parameters(f"sqlite:///{tmp_path}/two.db", interrupted, sampler)
    assert resumed[:alike] == undisturbed[:alike]
    assert len({str(drawn) for drawn in resumed}) == 13


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_each_trial_ends_once_and_an_interrupted_one_is_run_again(
    kind: str, tmp_path: Path
) -> None:
    """A trial that fails for a reason of its own is not run again; an interrupted one is."""
    queue = new_queue(f"{kind}:///{tmp_path}/studies", 4)
    runs: list[int] = []

    def objective(trial: optuna.Trial) -> float:
        number = number_of(trial)
        runs.append(number)
        if number == 1:
            raise TrialFailedError("out of memory")
        if number == 2:
            raise optuna.TrialPruned
        if runs.count(3) == 1:
            raise KeyboardInterrupt
        return 0.5

    with pytest.raises(KeyboardInterrupt):
        run_all(queue, objective)
    assert [state_of(trial) for trial in queue.trials()][3] == "waiting"
    while queue.run_next(objective):
        pass
    assert runs == [0, 1, 2, 3, 3]
    states = [(state_of(trial), reason_of(trial)) for trial in queue.trials()]
    assert states == [
        ("complete", ""),
        ("failed", "out of memory"),
        ("pruned", ""),
        ("complete", ""),
    ]
    assert not queue.unsettled()


def test_a_trial_enqueued_again_twice_counts_and_runs_once(tmp_path: Path) -> None:
    """Of two attempts at one trial that wait, the first runs and the other is left out."""
    queue = new_queue(f"sqlite:///{tmp_path}/studies.db", 1)
    queue.study.enqueue_trial({}, user_attrs={"number": 0})
    runs: list[int] = []

    def objective(trial: optuna.Trial) -> float:
        runs.append(trial.number)
        return 0.5

    while queue.run_next(objective):
        pass
    assert runs == [0]
    assert [state_of(trial) for trial in queue.trials()] == ["complete"]


def test_another_worker_s_trial_is_given_up_without_an_error(tmp_path: Path) -> None:
    """A worker whose trial another process has failed goes on with the next trial."""
    queue = new_queue(f"sqlite:///{tmp_path}/studies.db", 2)
    ended: list[int] = []

    def objective(trial: optuna.Trial) -> float:
        if trial.number == 0:
            queue.study.tell(0, state=optuna.trial.TrialState.FAIL)
        return 0.5

    while queue.run_next(objective, lambda trial: ended.append(number_of(trial))):
        queue.recover()
    assert ended == [1, 0]
    assert [state_of(trial) for trial in queue.trials()] == ["complete", "complete"]
