"""That benchmarks run and say what they measured; never how fast anything is."""

import json
from pathlib import Path

import click
import optuna
import pytest
import torch
from click.testing import CliRunner
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState
from PIL import Image

from benchmarks import cache, gpu, samplers, step, throughput, usual_recipe
from benchmarks.report import ratios
from pneumonia.config.data import DataSettings
from pneumonia.config.experiment import load_experiment
from pneumonia.data.dataset import load_data_set
from pneumonia.data.decode import Preprocessing, decode, network_input
from pneumonia.training.device import choose_engine


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "options", "figures"),
    [
        (cache.main, "--image-size 16 --repeats 2 --images {images}", 8),
        (step.main, "--image-size 32 --batch-size 2 --precision fp32 --steps 1 --repeats 2", 3),
    ],
)
def test_benchmarks_print_what_they_measured(
    command: click.Command, options: str, figures: int, xrays: Path
) -> None:
    result = CliRunner().invoke(command, options.format(images=xrays).split())
    assert result.exit_code == 0, result.output
    measured = json.loads(result.stdout)
    assert len(measured["figures"]) == figures
    for figure in measured["figures"]:
        assert len(figure["values"]) == 2
        assert min(figure["values"]) <= figure["median"] <= max(figure["values"])
        assert figure["what"] in result.stderr
    assert torch.__version__.startswith(measured["torch"])


@pytest.mark.slow
def test_the_small_form_of_the_gpu_benchmark_runs_on_a_cpu(xrays: Path) -> None:
    small = "--image-size 32 --batch-size 4 --steps 1 --repeats 1 --epochs 1 --no-compile"
    result = CliRunner().invoke(gpu.main, [*small.split(), "--data", xrays, "--images", xrays])
    assert result.exit_code == 0, result.output
    measured = [figure["what"] for figure in json.loads(result.stdout)["figures"]]
    assert "step, fp32 without TF32" in measured
    assert "pipeline over bare step" in measured
    assert "time to AUC 0.99" in measured
    assert "prediction, from files to rows" in measured


def recorded(storage: str, n_trials: int) -> optuna.Study:
    """A study of random trials, whose curves rise to a value that is best at settings of 0.5."""
    study = optuna.create_study(study_name="recorded", storage=storage, direction="maximize")
    study.sampler = optuna.samplers.RandomSampler(seed=0)
    space = {"dropout": FloatDistribution(0, 1), "optimizer": CategoricalDistribution(("a", "b"))}
    for _ in range(n_trials):
        trial = study.ask(dict(space))
        is_worse = trial.params["optimizer"] == "b"
        value = 0.9 - (trial.params["dropout"] - 0.5) ** 2 - 0.1 * is_worse
        trial.report(value - 0.1, 1)
        trial.report(value, 2)
        study.tell(trial, value)
    return study


@pytest.mark.slow
def test_samplers_are_compared_on_the_curves_of_a_study(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/optuna.db"
    study = recorded(storage, 30)
    surrogate = samplers.learn(study.trials)
    assert surrogate.rank > 0.8
    good, poor = surrogate.curves(
        [{"dropout": 0.5, "optimizer": "a"}, {"dropout": 0.0, "optimizer": "b"}]
    )
    assert good[1] > good[0] > poor[1] > poor[0]

    options = ("--study", "recorded", "--storage", storage, "--trials", "12", "--repeats", "2")
    result = CliRunner().invoke(samplers.main, options)
    assert result.exit_code == 0, result.output
    measured = {figure["what"]: figure for figure in json.loads(result.stdout)["figures"]}
    assert len(measured) == 2 + 3 * len(samplers.KINDS)
    for sampler, pruner in samplers.KINDS:
        lost = measured[f"{sampler}, pruner {pruner}: below that after 24 epochs"]
        assert abs(lost["median"]) < 0.25

    pruned = study.ask()
    study.tell(pruned, state=TrialState.PRUNED)
    refused = CliRunner().invoke(samplers.main, options)
    assert refused.exit_code == 2
    assert "--sampler random --pruner none" in refused.output


def test_ratios_compare_neighbours() -> None:
    assert ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]
    with pytest.raises(ValueError, match="longer"):
        ratios([1.0], [1.0, 2.0])


def test_the_usual_recipe_sees_the_same_images(xrays: Path, tmp_path: Path) -> None:
    data = load_data_set(DataSettings(data=str(xrays)), Preprocessing(32))
    files = data.roles["validation"]
    folder = usual_recipe.image_folder(files, tmp_path)
    loader = usual_recipe.training_loader(folder, image_size=32, batch_size=len(files), workers=0)
    pixels, labels = next(iter(loader))
    assert pixels.shape == (len(files), 3, 32, 32)
    assert sorted(labels.tolist()) == sorted(file.label for file in files)
    # Unchanged but for the size, one looks as ours does.
    plain = usual_recipe.scoring_transform(32)
    for file in files[:3]:
        with Image.open(file.path) as image:
            theirs = plain(image.convert("RGB"))
        grey = torch.from_numpy(decode(file.path.read_bytes(), Preprocessing(32)).copy())
        ours = network_input(grey.unsqueeze(0))[0]
        assert (theirs - ours).abs().mean() < 0.1


def test_the_bare_step_trains() -> None:
    settings = load_experiment("demo", {"image_size": 32, "batch_size": 4}).training
    run = throughput.bare_step(settings, choose_engine("cpu", "fp32"))
    losses = [run().item() for _ in range(8)]
    assert losses[-1] < losses[0]
