"""``pneumonia train``: once or as a search, begun, joined or resumed."""

import logging
from typing import TYPE_CHECKING, Any

import click

from pneumonia.cli.group import progress
from pneumonia.cli.options import flag, given, settings_options, tracking_options
from pneumonia.errors import UsageError

if TYPE_CHECKING:
    from pneumonia.config.experiment import Experiment
    from pneumonia.data.dataset import DataSet
    from pneumonia.tracking.results import TrainingResult
    from pneumonia.tracking.run_config import RunConfig


@click.command()
@settings_options
@click.option(
    "--trials",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="Trials of an Optuna search; 1 trains once with the fixed settings.",
)
@click.option("--timeout", type=click.FloatRange(min=0), help="Begin no trial after these seconds.")
@click.option("--study", default="", help="Name of the Optuna study.")
@click.option("--storage", default="", help="Optuna storage URL; ./optuna.db by default.")
@click.option(
    "--pruner",
    type=click.Choice(["median", "hyperband", "none"]),
    default="median",
    show_default=True,
    help="What ends poor trials early.",
)
@click.option(
    "--resume",
    is_flag=False,
    flag_value="true",
    default="",
    metavar="[RUN_ID]",
    help="Go on with a run that was stopped; without an id, with the study named by --study.",
)
@flag("join", default=False, help="Work on the study beside others; the first one creates it.")
@click.option(
    "--jobs",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="Workers on this machine, which share its cores and GPUs.",
)
@click.option(
    "--keep-checkpoints",
    type=click.Choice(["winner", "all"]),
    default="winner",
    show_default=True,
    help="Whose best checkpoint is kept.",
)
@flag("register", default=True, help="Register the winner under the network's name.")
@tracking_options
def train(
    data: str,
    experiment: str,
    network: str,
    trials: int,
    timeout: float | None,
    study: str,
    storage: str,
    pruner: str,
    resume: str,
    join: bool,
    jobs: int,
    keep_checkpoints: str,
    register: bool,
    tracking_uri: str | None,
    experiment_name: str,
    **settings: Any,
) -> None:
    """Train a network, or search for the best settings, and register the winner.

    \b
    pneumonia train
    pneumonia train --data chest_xray --network simple_cnn --epochs 5
    pneumonia train --data chest_xray --trials 20 --study night --jobs 2
    pneumonia train --data chest_xray --trials 40 --study night --resume
    pneumonia train --resume 0b1c2d3e4f5061728394a5b6c7d8e9f0
    torchrun --nproc-per-node 2 -m pneumonia train --data chest_xray
    """
    from pneumonia.config.experiment import load_experiment
    from pneumonia.search.storage import storage_url
    from pneumonia.search.study import SearchSettings
    from pneumonia.tracking.run_config import (
        RunConfig,
        kept_tracking_uri,
        run_config_to_resume,
    )
    from pneumonia.tracking.store import choose_experiment, connect
    from pneumonia.training.distributed import torchrun_ranks
    from pneumonia.workflows.prepare import load_data

    ranks = torchrun_ranks()
    run_id = "" if resume.lower() in ("true", "false") else resume
    resuming = resume.lower() == "true"
    if (resuming or join) and not (study or run_id):
        raise UsageError(
            f"--{'join' if join else 'resume'} needs the name of the study: add --study NAME"
        )
    if run_id:
        _refuse_other_options()
        if ranks.is_first:
            connect(tracking_uri or kept_tracking_uri(run_id))
        run_config = run_config_to_resume(run_id, local=not ranks.is_first)
    else:
        chosen = load_experiment(experiment, given({"data": data, "network": network, **settings}))
        search = SearchSettings(
            trials=trials,
            timeout=timeout,
            study=study,
            storage=storage_url(storage),
            pruner=pruner,
            keep_checkpoints=keep_checkpoints,
        )
        run_config = RunConfig(chosen, search, register)
        if trials > 1 or jobs > 1:
            run_config = run_config.named()
        if ranks.is_first:
            connect(tracking_uri)
            choose_experiment(experiment_name)
    if ranks.size > 1 and run_config.searching:
        raise UsageError("torchrun trains one network: start a search without it")
    if not ranks.is_first:
        _follow(run_config.experiment)
        return
    loaded = load_data(run_config.experiment, told=bool(run_id and join))
    if run_config.searching:
        opening = "join" if join else "resume" if run_id or resuming else "begin"
        result = _search(run_config, loaded, opening, run_id, jobs)
    else:
        result = _train_once(run_config, loaded, run_id)
    _report(result, run_config)


def _train_once(run_config: "RunConfig", data: "DataSet", run_id: str) -> "TrainingResult":
    from pneumonia.tracking.runs import continue_run, run_context, start_run
    from pneumonia.training.device import choose_engine
    from pneumonia.training.distributed import joined
    from pneumonia.workflows.train import run_training

    training = run_config.experiment.training
    device = choose_engine(training.device, training.precision).device
    # All ranks have joined before there is a run: where one cannot, none is left behind.
    with joined(device) as ranks:
        if run_id:
            run = continue_run(run_id, alone=True)
        else:
            run = start_run(
                f"{training.network}-{data.name}",
                {"network": training.network, "kind": "train", "world_size": str(ranks.size)},
            )
        click.echo(f"run       {run.id}")
        try:
            with run.local.alone(), run_context(run):
                return run_training(run, run_config, data, ranks, progress("decoding"))
        except KeyboardInterrupt:
            _say_how_to_go_on(run.id)
            raise


def _follow(experiment: "Experiment") -> None:
    """Train in step with rank 0, which alone reports: the same settings and images, in silence."""
    from pneumonia.data.dataset import load_data_set
    from pneumonia.training.device import choose_engine
    from pneumonia.training.distributed import joined
    from pneumonia.training.loop import train as train_network

    logging.getLogger("pneumonia").setLevel(logging.ERROR)
    training = experiment.training
    device = choose_engine(training.device, training.precision).device
    loaded = load_data_set(experiment.data, training.preprocessing)
    images = loaded.open(training.preprocessing)
    with joined(device) as ranks:
        train_network(training, images, lambda _epoch: None, ranks=ranks)


def _search(
    run_config: "RunConfig", data: "DataSet", opening: str, run_id: str, jobs: int
) -> "TrainingResult | None":
    from pneumonia.search.launch import launch_workers
    from pneumonia.search.run import run_search
    from pneumonia.search.session import begin, join, resume

    training, search = run_config.experiment.training, run_config.search
    name = f"{training.network}-{data.name}-x{search.trials}"
    tags = {"network": training.network, "kind": "search", "study": search.study}
    if opening == "resume":
        opened = resume(run_config, data, name, tags, run_id)
    else:
        opened = (join if opening == "join" else begin)(run_config, data, name, tags)
    click.echo(f"run       {opened.run.id}")
    try:
        if jobs > 1:
            return launch_workers(opened, jobs)
        return run_search(opened, run_config, data, progress("decoding"))
    except KeyboardInterrupt:
        _say_how_to_go_on(opened.run.id)
        raise


def _refuse_other_options() -> None:
    """A run goes on as it was begun: its settings cannot be given again."""
    ctx = click.get_current_context()
    for parameter in ctx.command.params:
        name = str(parameter.name)
        given = ctx.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE
        if given and name not in ("resume", "join", "jobs", "tracking_uri"):
            option = f"--{name.replace('_', '-')}"
            raise UsageError(
                f"{option} cannot be given with --resume RUN_ID: a run goes on as it was begun; "
                f"leave {option} out, or begin another run"
            )


def _say_how_to_go_on(run_id: str) -> None:
    click.echo(f"\nGo on with it by: pneumonia train --resume {run_id}", err=True)


def _report(result: "TrainingResult | None", run_config: "RunConfig") -> None:
    from pneumonia.config.data import DEMO
    from pneumonia.tracking.results import summary

    if result is None:
        click.echo("The time is over here; other workers go on with the study.", err=True)
        return
    click.echo(f"test      {summary(result)}")
    click.echo(f"model     {result.model_uri} ({result.verdict})")
    if run_config.experiment.data.data == DEMO:
        click.echo("These are results on synthetic images: they say nothing about real X-rays.")
    click.echo("next      pneumonia ui")
    click.echo(f"          pneumonia predict --model-uri {result.model_uri} IMAGES")
