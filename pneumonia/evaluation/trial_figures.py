"""Figures of all trials of a search: how each learnt, and which settings they had."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pneumonia.evaluation.figures import (
    BLUE,
    GREY,
    ORANGE,
    SMALL_SIZE,
    TITLE_SIZE,
    blank_figure,
    legend_below,
    sentence_figure,
    shorten,
    tidy,
)

_COLUMNS = 3


@dataclass(frozen=True, slots=True)
class TrialShown:
    """A trial as these figures need it.

    Attributes:
        number: Its number, from 0.
        value: Its value; None where it did not complete.
        reported: What it reported, by epoch or fold, from 1.
        parameters: What it drew, by name.
        logarithmic: Names of the parameters drawn on a logarithmic scale.
    """

    number: int
    value: float | None
    reported: Mapping[int, float]
    parameters: Mapping[str, object]
    logarithmic: frozenset[str]


def trial_curves(
    trials: Sequence[TrialShown], best: int, *, metric: str, step: str = "epoch"
) -> Figure:
    """Draw what each trial reported, those that did not complete in grey, the best one on top.

    Args:
        trials: The trials that reported something.
        best: Number of the best one.
        metric: Name of what they reported.
        step: What they reported it after.
    """
    shown = [trial for trial in trials if trial.reported]
    if not shown:
        return sentence_figure("No trial has reported anything yet.")
    figure = blank_figure(10, 5)
    axes = figure.subplots()
    tidy(axes)
    seen: set[str] = set()
    for trial in sorted(shown, key=lambda t: (t.number == best, t.value is not None)):
        label, look = _look(trial, best)
        steps = sorted(trial.reported)
        axes.plot(
            steps,
            [trial.reported[number] for number in steps],
            marker="o",
            label=None if label in seen else label,
            **look,  # type: ignore[arg-type]
        )
        seen.add(label)
    title = f"{shorten(metric, 40)} of {len(shown):,} trials"
    axes.set_title(title, loc="left", fontsize=TITLE_SIZE)
    axes.set(xlabel=step, ylabel=shorten(metric, 40))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True, min_n_ticks=1))
    legend_below(axes, columns=3)
    return figure


def slices(trials: Sequence[TrialShown], best: int, *, metric: str) -> Figure:
    """Draw the value of each complete trial over each of its parameters, a panel a parameter.

    Args:
        trials: The trials.
        best: Number of the best one.
        metric: Name of their value.
    """
    complete = [t for t in trials if t.value is not None and math.isfinite(t.value)]
    names = sorted({name for trial in complete for name in trial.parameters})
    if not names:
        return sentence_figure("No trial is complete, so there are no settings to compare.")
    columns = min(_COLUMNS, len(names))
    rows = math.ceil(len(names) / columns)
    title = f"{shorten(metric, 40)} of {len(complete):,} complete trials, by their settings"
    figure = blank_figure(10, 0.6 + 2.7 * rows, title)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes in grid.flat[len(names) :]:
        axes.set_axis_off()
    for axes, name in zip(grid.flat, names, strict=False):
        tidy(axes)
        drawn = [trial for trial in complete if name in trial.parameters]
        _slice(axes, drawn, name, best)
    for axes in grid[:, 0]:
        axes.set_ylabel(shorten(metric, 24), fontsize=SMALL_SIZE)
    return figure


def _slice(axes: Axes, trials: Sequence[TrialShown], name: str, best: int) -> None:
    values = [trial.parameters[name] for trial in trials]
    numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    if any(name in trial.logarithmic for trial in trials):
        axes.set_xscale("log")
    places = values if numeric else [str(value) for value in values]
    colours = [ORANGE if trial.number == best else BLUE for trial in trials]
    axes.scatter(
        places,  # type: ignore[arg-type]  # text stands for categories
        [trial.value for trial in trials],  # type: ignore[arg-type]  # all are complete
        c=colours,
        s=30,
        edgecolors="white",
        linewidths=0.6,
        zorder=3,
    )
    axes.tick_params(labelsize=SMALL_SIZE - 1)
    axes.set_xlabel(shorten(name, 30), fontsize=SMALL_SIZE)


def _look(trial: TrialShown, best: int) -> tuple[str, Mapping[str, object]]:
    if trial.number == best:
        return f"best (trial {best})", {"color": ORANGE, "linewidth": 2.4, "markersize": 5}
    if trial.value is not None:
        return "complete", {"color": BLUE, "linewidth": 1.1, "markersize": 3, "alpha": 0.7}
    return "pruned or failed", {"color": GREY, "linewidth": 1, "markersize": 3, "alpha": 0.6}
