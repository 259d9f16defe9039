"""``pneumonia train``: once or as a search; started, joined or resumed."""

from typing import TYPE_CHECKING, Any

import click

from pneumonia.cli.dry_run import dry_run_option, print_estimate
from pneumonia.cli.group import print_field, print_json, print_next, print_run
from pneumonia.cli.options import (
    flag,
    given,
    json_option,
    refuse_options_beside_resume,
    search_options,
    settings_options,
    tracking_options,
)
from pneumonia.cli.progress import ProgressBar
from pneumonia.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pneumonia.tracking.results import TrainingResult
    from pneumonia.workflows.train_seeds import Spread


@click.command(short_help="Train a network, or search for the best settings.")
@settings_options
@search_options
@click.option(
    "--resume",
    is_flag=False,
    flag_value="true",
    default="",
    metavar="[RUN_ID]",
    help="Go on with a run that was stopped; without an id, with the study named by --study.",
)
@flag(
    "join",
    default=False,
    help="Work on a study that others work on too; with --seeds, on the run named by --resume.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="Workers on this machine that share the trials, or the seeds; by default as many as make "
    "it faster.",
)
@click.option(
    "--seeds",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="Train with so many seeds, and give the mean and standard deviation of the results.",
)
@flag("register", default=True, help="Register the winner under the network's name.")
@tracking_options
@dry_run_option
@json_option
def train(resume: str, seeds: int, dry_run: bool, as_json: bool, **options: Any) -> None:
    """Train a network, or search for the best settings, and register the winner.

    \b
    pneumonia train
    pneumonia train --data chest_xray --network simple_cnn --epochs 5
    pneumonia train --data chest_xray --trials 20 --study night --jobs 2
    pneumonia train --data chest_xray --trials 40 --study night --resume
    pneumonia train --data chest_xray --trials 20 --dry-run
    pneumonia train --resume 0b1c2d3e4f5061728394a5b6c7d8e9f0
    torchrun --nproc-per-node 2 -m pneumonia train --data chest_xray
    """
    if dry_run:
        if resume:
            raise UsageError("--dry-run estimates a new run: leave --resume out")
        _estimate(seeds, given(options), as_json=as_json)
        return
    from pneumonia.workflows.train import resume_run
    from pneumonia.workflows.train import train as train_workflow

    arguments: dict[str, Any] = {"progress": ProgressBar(), "on_run": print_run}
    if seeds > 1:
        _train_seeds(seeds, resume, options, arguments, as_json=as_json)
        return
    if resume.lower() in ("", "true", "false"):
        resuming = resume.lower() == "true"
        result = train_workflow(**given(options), **arguments, resume=resuming)
    else:
        kept = ("join", "jobs", "timeout", "tracking_uri")
        refuse_options_beside_resume(*kept, "as_json")
        result = resume_run(resume, **{name: options[name] for name in kept}, **arguments)
    if as_json:
        print_json(result.as_json() if result else {})
    else:
        print_result(result)


def _estimate(seeds: int, options: dict[str, Any], *, as_json: bool) -> None:
    from pneumonia.config.search import SearchSettings
    from pneumonia.workflows.train import refuse_folds_alone

    asked = {name: options[name] for name in SearchSettings.model_fields if name in options}
    refuse_folds_alone(SearchSettings(**asked), options.get("jobs"))
    print_estimate(options | {"seeds": seeds}, as_json=as_json)


def _train_seeds(
    seeds: int, resume: str, options: dict[str, Any], arguments: dict[str, Any], *, as_json: bool
) -> None:
    from pneumonia.config.search import SearchSettings
    from pneumonia.workflows.train_seeds import join_seeds, resume_seeds, train_seeds

    ctx = click.get_current_context()
    for name in SearchSettings.model_fields:
        if ctx.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE:
            option = name.replace("_", "-")
            raise UsageError(f"--seeds trains fixed settings: leave --{option} out")
        del options[name]
    if resume.lower() == "true":
        raise UsageError("--seeds needs the id of the run to resume: --resume RUN_ID")
    resuming = resume and resume.lower() != "false"
    join, tracking_uri = options.pop("join"), options["tracking_uri"]
    if resuming:
        refuse_options_beside_resume("seeds", "join", "jobs", "tracking_uri", "as_json")
    if join:
        if not resuming:
            raise UsageError("--seeds needs the run to join: --resume RUN_ID")
        progress = arguments["progress"]
        join_seeds(resume, seeds, tracking_uri=tracking_uri, progress=progress)
        return
    if resuming:
        kept = {name: options[name] for name in ("jobs", "tracking_uri")}
        results, spread = resume_seeds(resume, seeds, **kept, **arguments)
    else:
        results, spread = train_seeds(seeds, **given(options), **arguments)
    if as_json:
        values = {k: {"mean": mean, "deviation": sd} for k, (mean, sd) in spread.items()}
        print_json({"seeds": [result.as_json() for result in results], "spread": values})
    else:
        _print_seeds(results, spread)


def _print_seeds(results: "Sequence[TrainingResult]", spread: "Spread") -> None:
    from pneumonia.tracking.results import summary

    for result in results:
        click.echo(f"test      {summary(result)}  {result.model_uri}")
    for key, (mean, deviation) in spread.items():
        click.echo(f"{key:30} {mean:.4f} ± {deviation:.4f}")
    print_next()


def print_result(result: "TrainingResult | None") -> None:
    """Print what a training came to, and what to type next."""
    from pneumonia.tracking.results import stress_summary, summary

    if result is None:
        return
    print_field("test", summary(result))
    print_field("stress", stress_summary(result))
    if result.times_scored > 1:
        print_field("note", f"{result.times_scored} runs of this store scored these test images")
    print_field("model", f"{result.model_uri} ({result.verdict})")
    if result.synthetic:
        print_field("note", "results on synthetic images say nothing about real X-rays")
    if result.warning:
        print_field("warning", result.warning)
    print_next(f"pneumonia predict --model-uri {result.model_uri} IMAGES")
