"""Figures of a search for better settings: how it went, and which settings mattered."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pneumonia.evaluation.figures import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    RED,
    SMALL_SIZE,
    TEXT_SIZE,
    TITLE_SIZE,
    blank_figure,
    legend_below,
    sentence_figure,
    shorten,
    tidy,
)

# Shapes differ as well as colours, for prints in grey.
_LOOKS = {
    "complete": {"marker": "o", "s": 42, "color": BLUE, "edgecolors": "white", "linewidths": 0.8},
    "pruned": {"marker": "D", "s": 30, "facecolors": "none", "edgecolors": GREY},
    "failed": {"marker": "x", "s": 42, "color": RED, "linewidths": 1.8},
}
_SYNONYMS = {"fail": "failed"}


@dataclass(frozen=True, slots=True)
class Importance:
    """How much of the variation between trials a parameter explains.

    Attributes:
        name: The parameter.
        share: Of the variation, 0–1 (fANOVA, Hutter et al. 2014); the shares add up to 1.
        interval: 90 % interval of the share, by bootstrap over trials.
        better: Which values are better: ``more``, ``less``, a choice by name, or nothing where
            chance explains the difference.
    """

    name: str
    share: float
    interval: tuple[float, float]
    better: str


def optimisation_history(
    values: Sequence[float | None], states: Sequence[str], *, metric: str, maximize: bool
) -> Figure:
    """Draw the value of each trial by its number, and the best so far.

    Args:
        values: One a trial, in the order of their numbers from 0; of a pruned trial the last
            value it reported. A trial without a value stands at the foot of the panel.
        states: One a trial: ``complete``, ``pruned`` or ``failed``, in any case; trials in other
            states, such as running, are not drawn.
        metric: Name of what the values measure.
        maximize: Whether more is better.

    Returns:
        One panel. Only completed trials count towards the best.
    """
    known = [_SYNONYMS.get(state.lower(), state.lower()) for state in states]
    trials = [
        (number, math.nan if value is None else value, state)
        for number, (value, state) in enumerate(zip(values, known, strict=True))
        if state in _LOOKS
    ]
    if not trials:
        return sentence_figure("No trial has ended, so there is no history of the search.")
    figure = blank_figure(10, 5)
    axes = figure.subplots()
    tidy(axes)
    axes.margins(y=0.12)
    for state, look in _LOOKS.items():
        points = [(number, value) for number, value, of in trials if of == state]
        if points:
            _dots(axes, points, look, f"{state} ({len(points):,})")
    complete = [
        (number, value) for number, value, of in trials if of == "complete" and math.isfinite(value)
    ]
    title = f"{shorten(metric, 40)} by trial"
    if complete:
        title += _best_line(axes, complete, last=len(values) - 1, maximize=maximize)
    axes.set_title(title, loc="left", fontsize=TITLE_SIZE)
    axes.set(xlabel="trial", ylabel=shorten(metric, 40), xlim=(-0.6, len(values) - 0.4))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True, min_n_ticks=1))
    legend_below(axes, columns=4)
    return figure


def parameter_importance(importances: Sequence[Importance], *, metric: str) -> Figure:
    """Draw how much each parameter mattered, the most important at the top.

    Args:
        importances: In any order.
        metric: Name of what they are important for.

    Returns:
        Horizontal bars with their intervals and which values are better, or the reason in words
        where there are no importances.
    """
    if not importances:
        return sentence_figure(
            "The importance of parameters is not known yet: it takes at least 4 completed "
            "trials that differ in their parameters and in their results."
        )
    ordered = sorted(importances, key=lambda importance: (importance.share, importance.name))
    names = [shorten(importance.name, 40) for importance in ordered]
    shares = np.array([importance.share for importance in ordered])
    ends = np.array([importance.interval for importance in ordered]).T  # (2, n)
    figure = blank_figure(10, min(1.6 + 0.42 * len(names), 12))
    axes = figure.subplots()
    tidy(axes)
    # By position, since long names may be equal once they are shortened.
    reach = np.abs(ends - shares)  # the bootstrap's interval holds the share itself
    axes.barh(range(len(names)), shares, color=BLUE, height=0.66, xerr=reach, ecolor=INK)
    axes.set_yticks(range(len(names)), names)
    for position, importance in enumerate(ordered):
        better = f", {shorten(importance.better, 20)} is better" if importance.better else ""
        end = max(importance.share, importance.interval[1])
        axes.annotate(
            f"{importance.share:.1%}{better}",
            (end, position),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=SMALL_SIZE,
            color=INK,
        )
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0, labelsize=TEXT_SIZE)
    title = f"Importance of parameters for {shorten(metric, 40)}"
    axes.set_title(title, loc="left", fontsize=TITLE_SIZE)
    axes.set(
        xlabel="share of the variation between trials, with 90 % interval",
        xlim=(0, ends.max() * 1.3 or 1),
    )
    axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    return figure


def _dots(
    axes: Axes, points: Sequence[tuple[int, float]], look: Mapping[str, object], label: str
) -> None:
    valued = [(number, value) for number, value in points if math.isfinite(value)]
    # An empty series still puts the state into the legend.
    axes.scatter(
        [number for number, _ in valued],
        [value for _, value in valued],
        label=label,
        zorder=3,
        **look,  # type: ignore[arg-type]
    )
    without = [number for number, value in points if not math.isfinite(value)]
    if without:
        axes.scatter(
            without,
            [0.025] * len(without),
            transform=axes.get_xaxis_transform(),
            zorder=3,
            **look,  # type: ignore[arg-type]
        )


def _best_line(
    axes: Axes, complete: Sequence[tuple[int, float]], *, last: int, maximize: bool
) -> str:
    """Draw the best value so far, and return the best of all in words."""
    better = max if maximize else min
    numbers = [number for number, _ in complete]
    best = list(accumulate((value for _, value in complete), better))
    axes.step(
        [*numbers, last],
        [*best, best[-1]],
        where="post",
        color=ORANGE,
        linewidth=2,
        zorder=2,
        label="best so far",
    )
    winner = next(number for number, value in complete if value == best[-1])
    return f", best {best[-1]:.4f} in trial {winner}"
