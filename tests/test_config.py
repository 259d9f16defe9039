"""Settings: one declaration from which checks, options and logged parameters come."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pneumonia.cli.train import train
from pneumonia.config.data import DataSettings
from pneumonia.config.experiment import load_experiment
from pneumonia.config.search import SearchSettings
from pneumonia.config.settings import Settings
from pneumonia.config.space import parse_space
from pneumonia.config.training import TrainingSettings
from pneumonia.errors import UsageError
from pneumonia.tracking.run_config import RunConfig

ALL = (TrainingSettings, DataSettings, SearchSettings)


@pytest.mark.parametrize("metric", ["auc", "loss"])
def test_a_metric_that_is_not_a_number_never_wins(metric: str) -> None:
    """A NaN beats neither nothing nor a number, whether more or less is better."""
    settings = TrainingSettings().with_values(metric=metric)
    assert not settings.better(math.nan, None)
    assert not settings.better(math.nan, 0.5)
    assert settings.better(0.5, None)


@pytest.mark.parametrize("kind", ALL)
def test_every_setting_is_an_option_with_its_help(kind: type[Settings]) -> None:
    """The command has an option for each setting, with the description of the field."""
    options = {option.name: option for option in train.params}
    for name, field in kind.model_fields.items():
        assert field.description
        if name not in ("data", "network"):
            assert getattr(options[name], "help", None) == field.description


@given(st.sampled_from(ALL), st.data())
def test_no_value_gets_past_the_declaration(kind: type[Settings], data: st.DataObject) -> None:
    """Whatever is given, it is taken as declared or refused in one line that names the field."""
    name = data.draw(st.sampled_from(list(kind.model_fields)))
    value = data.draw(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5))
    )
    said = ""
    taken = value
    try:
        taken = getattr(kind(**{name: value}), name)
    except UsageError as error:
        said = str(error)
    if name == "weights" and not said:  # a file, wherever the run is resumed
        value = value if value in {"none", "imagenet"} else str(Path(value).absolute())
    elif name == "labels" and not said:
        value = str(Path(value).absolute()) if value else ""
    elif name == "threshold" and not said:  # a number is a rule too
        value = str(value)
    assert taken == value or name in said
    assert said or type(taken) is type(value) or (type(taken), type(value)) == (float, int)


def test_settings_cannot_change_and_copies_are_checked() -> None:
    """A copy with another value is checked like any settings, and the original stays."""
    settings = TrainingSettings(epochs=3)
    assert settings.with_values(epochs=4).epochs == 4
    assert settings.epochs == 3
    with pytest.raises(UsageError, match="epochs = 0 is out of range: give 1 to 10000"):
        settings.with_values(epochs=0)
    with pytest.raises(UsageError, match="unknown key 'epoch': did you mean 'epochs'"):
        settings.with_values(epoch=4)


def test_a_run_configuration_survives_json() -> None:
    """What is kept with a run gives the same configuration back, the search space included."""
    space = parse_space(
        {
            "batch_size": {"choices": [8, 16]},
            "optimizer": {"choices": ["adam", "adamw"]},
            "learning_rate": {"low": 1e-5, "high": 1, "log": True},
        }
    )
    experiment = load_experiment("resnet34", {"data": "xrays"}).with_values(space=space)
    config = RunConfig(experiment=experiment, search=SearchSettings(trials=3), register_winner=True)
    kept = json.loads(json.dumps(config.model_dump(mode="json")))
    assert RunConfig(**kept) == config
