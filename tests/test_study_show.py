"""Studies as the terminal shows them."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from click.testing import Result
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from pneumonia.config.training import TrainingSettings
from pneumonia.search.queue import TrialQueue
from pneumonia.search.trials import number_of
from pneumonia.tracking.results import TrainingResult

Cli = Callable[..., Result]
SPACE = {
    "learning_rate": FloatDistribution(1e-5, 1e-1, log=True),
    "optimizer": CategoricalDistribution(["adam", "sgd"]),
}


def add(study: optuna.Study, value: float | None, rate: float, state: TrialState) -> None:
    study.add_trial(
        create_trial(
            state=state,
            value=value,
            params={"learning_rate": rate, "optimizer": "adam"},
            distributions=SPACE,
            user_attrs={"run_id": f"run-of-{rate}", "number": len(study.trials)},
        )
    )


@pytest.fixture
def night(workplace: Path) -> optuna.Study:
    study = optuna.create_study(
        study_name="night", storage=f"sqlite:///{workplace}/optuna.db", direction="maximize"
    )
    for key, value in {"settings": {}, "metric": "auc", "run_id": "parent-run"}.items():
        study.set_user_attr(key, value)
    for value, rate in ((0.91, 1e-3), (0.875, 1e-4), (0.5, 0.1), (0.9, 3e-4)):
        add(study, value, rate, TrialState.COMPLETE)
    add(study, None, 0.05, TrialState.FAIL)
    study.enqueue_trial({}, user_attrs={"number": 5})
    optuna.create_study(study_name="night/winner-parent-r", storage=study._storage)
    return study


@pytest.mark.usefixtures("night")
def test_a_study_under_way_is_shown_best_trial_first(run_cli: Cli) -> None:
    result = run_cli("study", "show", "night")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[:10] == [
        "study     night, maximises validation auc",
        "run       parent-run",
        "trials    4 complete, 1 failed, 1 waiting",
        "",
        "trial  state     val auc  learning_rate  optimizer",
        "    0  complete   0.9100          0.001       adam",
        "    3  complete   0.9000         0.0003       adam",
        "    1  complete   0.8750         0.0001       adam",
        "    2  complete   0.5000            0.1       adam",
        "    4  failed                      0.05       adam",
    ]
    assert lines[11] == "parameter      importance  90 % interval  better"
    assert {line.split()[0] for line in lines[12:14]} == set(SPACE)
    assert sum(float(line.split()[1]) for line in lines[12:14]) == pytest.approx(1, abs=2e-3)
    assert lines[15:] == [
        "winner    trial 0, validation auc 0.9100, run run-of-0.001",
        "model     none yet: the study is not finished",
    ]
    assert run_cli("study", "show", "night").stdout == result.stdout


def test_a_finished_study_names_its_model(night: optuna.Study, run_cli: Cli) -> None:
    result = TrainingResult({}, {}, "models:/resnet34/3", "version 3 is the new champion")
    night.set_user_attr("result", result.as_json())
    result = run_cli("study", "show", "night", "--storage", "sqlite:///optuna.db")
    assert result.stdout.splitlines()[-1] == (
        "model     models:/resnet34/3 (version 3 is the new champion)"
    )


def test_a_long_study_is_cut_and_a_new_one_has_no_winner(night: optuna.Study, run_cli: Cli) -> None:
    for number in range(20):
        add(night, 0.1 + number / 100, 1e-2, TrialState.COMPLETE)
    assert "\nand 5 more\n" in run_cli("study", "show", "night").stdout
    optuna.create_study(study_name="new", storage=night._storage)
    assert run_cli("study", "show", "new").stdout.splitlines()[1:] == [
        "run       none: it was never made ready",
        "trials    none",
        "",
        "winner    none yet: no trial has completed",
    ]


def test_studies_are_listed_without_the_claims_beside_them(
    night: optuna.Study, run_cli: Cli
) -> None:
    optuna.create_study(study_name="a new one", storage=night._storage)
    assert run_cli("study", "list").stdout.splitlines() == [
        "study      metric    best  trials                           run",
        "a new one  value           none",
        "night      auc     0.9100  4 complete, 1 failed, 1 waiting  parent-run",
    ]


@pytest.mark.usefixtures("night")
def test_an_unknown_name_brings_up_the_one_that_was_meant(run_cli: Cli) -> None:
    result = run_cli("study", "show", "nigth")
    assert result.exit_code == 2
    assert result.stderr == "Error: no study 'nigth': did you mean 'night'?\n"
    assert "no study 'x': known: night" in run_cli("study", "show", "x").stderr


@pytest.mark.parametrize("arguments", [("show", "night"), ("list",)])
@pytest.mark.parametrize("storage", ["", "sqlite:///there/optuna.db", "journal:///there/log"])
def test_no_storage_is_made(
    arguments: tuple[str, ...], storage: str, empty_folder: Path, run_cli: Cli
) -> None:
    result = run_cli("study", *arguments, "--storage", storage)
    assert result.exit_code == 2
    assert "there is no study storage" in result.stderr
    assert list(empty_folder.iterdir()) == []


def test_a_trial_taken_up_again_is_drawn_at_its_own_number(monkeypatch: pytest.MonkeyPatch) -> None:
    from pneumonia.search import winner

    queue = TrialQueue(optuna.create_study(direction="maximize"), None)
    queue.fill(3)
    values = iter((KeyboardInterrupt(), 0.7, 0.8, 0.9))  # 0, 1, 2, and 0 by its second attempt

    def objective(_trial: optuna.Trial) -> float:
        value = next(values)
        if isinstance(value, KeyboardInterrupt):
            raise value
        return value

    with pytest.raises(KeyboardInterrupt):
        queue.run_next(objective)
    while queue.run_next(objective):
        pass
    drawn = []
    monkeypatch.setattr(winner, "optimisation_history", lambda *given, **_: drawn.append(given))
    run = SimpleNamespace(log_figure=lambda *_: None)
    winner._log_figures(run, queue.trials(), {}, TrainingSettings(), best=0, folds=1)
    assert drawn == [([0.9, 0.7, 0.8], ["complete"] * 3)]
    best = queue.best()
    assert best is not None
    assert number_of(best) == 0
