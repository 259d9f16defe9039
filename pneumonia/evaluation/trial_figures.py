"""Figures of all trials of a search: how each learnt, and which settings they had."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
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


def parallel_coordinates(
    trials: Sequence[TrialShown], best: int, *, metric: str, maximize: bool
) -> Figure:
    """Draw a line a complete trial, across its parameters to its value.

    Args:
        trials: The trials.
        best: Number of the best one.
        metric: Name of their value.
        maximize: Whether more is better; better trials are darker.
    """
    complete = [t for t in trials if t.value is not None and math.isfinite(t.value)]
    # A parameter that some trials did not draw is missing from their lines.
    common = set.intersection(*({*t.parameters} for t in complete)) if complete else set()
    if not common:
        return sentence_figure("No trial is complete, so there are no settings to compare.")
    scales = [_scale_of(name, complete) for name in sorted(common)]
    scales.append(_numeric_scale(metric, [float(t.value or 0) for t in complete]))
    figure = blank_figure(min(3 + 1.6 * len(scales), 16), 5)
    axes = figure.subplots()
    ranked = sorted(range(len(complete)), key=scales[-1].heights.__getitem__, reverse=not maximize)
    shades = colormaps["cividis_r"](np.linspace(0.1, 1, len(complete)))
    for shade, index in zip(shades, ranked, strict=True):
        is_best = complete[index].number == best
        axes.plot(
            [scale.heights[index] for scale in scales],
            color=ORANGE if is_best else shade,
            linewidth=2.6 if is_best else 1.2,
            alpha=1 if is_best else 0.8,
            zorder=3 if is_best else 2,
            label=f"best (trial {best})" if is_best else None,
        )
    for across, scale in enumerate(scales):
        axes.axvline(across, color=GREY, linewidth=1, zorder=1)
        for height, text in scale.ticks:
            axes.annotate(
                shorten(text, 14),
                (across + 0.03, height),
                fontsize=SMALL_SIZE - 1,
                va="center",
                bbox={"boxstyle": "round,pad=0.1", "color": "white", "alpha": 0.8},
            )
    axes.set_xticks(range(len(scales)), [shorten(scale.name, 18) for scale in scales])
    axes.set(ylim=(-0.06, 1.06), xlim=(-0.2, len(scales) - 0.4), yticks=[])
    axes.spines[:].set_visible(False)
    axes.tick_params(axis="x", length=0, labelsize=SMALL_SIZE)
    title = f"{len(complete):,} trials: settings and {shorten(metric, 40)}; darker is better"
    axes.set_title(title, loc="left", fontsize=TITLE_SIZE)
    legend_below(axes)
    return figure


@dataclass(frozen=True, slots=True)
class _Scale:
    """An upright axis: where each trial crosses it and what is written at it, 0–1."""

    name: str
    heights: Sequence[float]
    ticks: Sequence[tuple[float, str]]


def _scale_of(name: str, trials: Sequence[TrialShown]) -> _Scale:
    values = [trial.parameters[name] for trial in trials]
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        logarithmic = any(name in trial.logarithmic for trial in trials)
        return _numeric_scale(name, [float(str(v)) for v in values], logarithmic=logarithmic)
    choices = sorted({str(value) for value in values})
    height = {choice: (n + 0.5) / len(choices) for n, choice in enumerate(choices)}
    heights = [height[str(value)] for value in values]
    return _Scale(name, heights, [(height[choice], choice) for choice in choices])


def _numeric_scale(name: str, values: Sequence[float], *, logarithmic: bool = False) -> _Scale:
    low, high = min(values), max(values)
    if low == high:
        return _Scale(name, [0.5] * len(values), [(0.5, f"{low:.3g}")])
    on_axis = math.log if logarithmic else float
    start, end = on_axis(low), on_axis(high)
    heights = [(on_axis(value) - start) / (end - start) for value in values]
    return _Scale(name, heights, [(0, f"{low:.3g}"), (1, f"{high:.3g}")])


def _slice(axes: Axes, trials: Sequence[TrialShown], name: str, best: int) -> None:
    values = [trial.parameters[name] for trial in trials]
    numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    if any(name in trial.logarithmic for trial in trials):
        axes.set_xscale("log")
    positions = values if numeric else [str(value) for value in values]
    colours = [ORANGE if trial.number == best else BLUE for trial in trials]
    axes.scatter(
        positions,  # type: ignore[arg-type]  # text stands for categories
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
