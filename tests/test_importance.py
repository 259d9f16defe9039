"""Which parameters mattered in a study, and the page that shows it."""

import math

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import create_trial

from pneumonia.search.importance import importance_sentence, importances_of
from pneumonia.search.page import study_page


def _study(direction: str, trials: int = 24) -> optuna.Study:
    """A study whose value depends on the rate, much less on the kind, and on nothing else."""
    study = optuna.create_study(direction=direction, study_name=f"<{direction}>")
    distributions = {
        "rate": FloatDistribution(0, 1),
        "kind": CategoricalDistribution(["adam", "adamw"]),
        "idle": FloatDistribution(0, 1),
    }
    for number in range(trials):
        rate = number / 23
        kind = ("adam", "adamw")[number % 2]
        drawn = {"rate": rate, "kind": kind, "idle": math.sin(7 * number) ** 2}
        value = rate + 0.05 * (kind == "adam")
        study.add_trial(create_trial(params=drawn, distributions=distributions, value=value))
    return study


@pytest.mark.parametrize(("direction", "better"), [("maximize", "more"), ("minimize", "less")])
def test_what_mattered_comes_first_with_its_direction(direction: str, better: str) -> None:
    found = importances_of(_study(direction))
    assert found[0].name == "rate"
    assert found[0].better == better
    assert {importance.better for importance in found[1:]} == {""}
    assert sum(importance.share for importance in found) == pytest.approx(1)
    for importance in found:
        low, high = importance.interval
        assert 0 <= low <= importance.share <= high <= 1
    assert f"{better} is better)" in importance_sentence(found)


def test_a_better_choice_is_named() -> None:
    study = optuna.create_study(direction="minimize")
    kinds = {"kind": CategoricalDistribution(["adam", "adamw"])}
    for number in range(12):
        kind = ("adam", "adamw")[number % 2]
        value = number + 20 * (kind == "adam")
        study.add_trial(create_trial(params={"kind": kind}, distributions=kinds, value=value))
    (found,) = importances_of(study)
    assert found.better == "adamw"


def test_four_trials_in_a_row_may_be_chance() -> None:
    """Of the 24 orders of four values two are straight, which is more than one in twenty."""
    study = optuna.create_study(direction="maximize")
    for number in range(4):
        rates = {"rate": FloatDistribution(0, 4)}
        study.add_trial(create_trial(params={"rate": number}, distributions=rates, value=number))
    (found,) = importances_of(study)
    assert found.better == ""


def test_too_few_trials_tell_nothing() -> None:
    assert importances_of(_study("maximize", trials=3)) == []
    assert "Too few trials" in importance_sentence([])


def test_the_page_of_a_study_needs_nothing_else() -> None:
    pytest.importorskip("plotly", reason="it comes with the extra 'interactive'")
    page = study_page(_study("maximize"), "val/auc")
    assert page is not None
    assert "<title>Study &lt;maximize&gt;</title>" in page
    assert "<script src" not in page
    assert "<link" not in page
    assert page.count('class="plotly-graph-div"') == 4


def test_without_plotly_there_is_no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pneumonia.search.page.find_spec", lambda _name: None)
    assert study_page(_study("maximize"), "val/auc") is None
