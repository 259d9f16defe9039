"""``pneumonia doctor``."""

import click

from pneumonia.cli.options import FloatInRange, tracking_uri_option

_NOT_WELL = 3


@click.command(short_help="Check the installation, and what crashes left.")
@click.option("--fix", is_flag=True, help="Mark or remove what dead processes left behind.")
@click.option("--storage", default="", help="Optuna storage URL; ./optuna.db by default.")
@click.option(
    "--cache-limit",
    metavar="GIB",
    type=FloatInRange(min=0),
    default=20,
    show_default=True,
    help="GiB that image caches may take; --fix removes those used longest ago.",
)
@tracking_uri_option
def doctor(fix: bool, storage: str, cache_limit: float, tracking_uri: str | None) -> None:
    """Check the installation, and find what dead processes left behind.

    Runs and trials that count as running, unfinished caches, checkpoints without a run. Exit code
    3 says that something is left or wrong.

    \b
    pneumonia doctor
    pneumonia doctor --fix
    """
    from pneumonia.doctor.checks import Mark
    from pneumonia.doctor.examine import examine

    left = wrong = 0
    for section in examine(tracking_uri, storage, int(cache_limit * 2**30)):
        click.echo(section.title)
        for remark in section.remarks(fix=fix):
            click.echo(f"  {remark.mark:<7} {remark.text}")
            left += remark.mark == Mark.LEFT
            wrong += remark.mark == Mark.WRONG
        if not section.found:
            click.echo(f"  {Mark.OK:<7} nothing is left behind")
    if left:
        remedy = "see why above" if fix else "'pneumonia doctor --fix' fixes that"
        click.echo(f"{left:,} left behind: {remedy}")
    if wrong:
        click.echo(f"{wrong:,} wrong: see what to do above")
    if left or wrong:
        click.get_current_context().exit(_NOT_WELL)
    click.echo("All is well.")
