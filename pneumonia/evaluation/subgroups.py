"""Sensitivity and specificity of groups of images, such as those of one pathogen."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import shorten

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pneumonia.evaluation.figures import BLUE, GREY, SMALL_SIZE, blank_figure, plain, tidy
from pneumonia.evaluation.intervals import (
    Interval,
    exact_interval,
    percentile_interval,
    resampled_weights,
    value_text,
)
from pneumonia.evaluation.predictions import Predictions

_RESAMPLES = 1000

_MOST_VALUES = 8
"""A column of more values is no classification."""

_LEAST_IMAGES = 10
"""A group of fewer says nothing."""

_MOST_COLUMNS = 10
"""More make a figure that nobody reads."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Subgroup:
    """A metric of some of the images.

    Attributes:
        name: The group.
        metric: ``sensitivity`` or ``specificity``.
        n_images: Images of the class that the metric is about.
        value: The metric, 0–1.
        interval: Its 95 % interval, by bootstrap over patients, or where it is 0 or 1 the exact
            one.
    """

    name: str
    metric: str
    n_images: int
    value: float
    interval: Interval


def groups_of(attributes: Sequence[Mapping[str, str]]) -> dict[str, NDArray[np.bool_]]:
    """Group images by what is known of each.

    A column of two to eight values makes a group of each value, a column of more numbers thirds,
    any other column none. Groups of fewer than ten images are left out, and so are columns after
    the tenth, with a line in the log. An image without a value is in no group of that column.

    Args:
        attributes: What is known of each image, by column (n); empty where nothing is.

    Returns:
        Which images belong to it, bool (n,), by name of the group, such as ``sex F``.
    """
    found = {}
    for column in dict.fromkeys(name for known in attributes for name in known):
        groups = _groups(column, [known.get(column, "") for known in attributes])
        if large := {n: m for n, m in groups.items() if m.sum() >= _LEAST_IMAGES}:
            found[column] = large
    for column in list(found)[_MOST_COLUMNS:]:
        log.info("no subgroups by %r: there are %d other columns", column, _MOST_COLUMNS)
        del found[column]
    return {name: members for groups in found.values() for name, members in groups.items()}


def _groups(column: str, values: Sequence[str]) -> dict[str, NDArray[np.bool_]]:
    distinct = sorted(set(values) - {""})
    if 2 <= len(distinct) <= _MOST_VALUES:
        return {f"{column} {value}": np.array([v == value for v in values]) for value in distinct}
    try:
        numbers = np.array([float(value) if value else np.nan for value in values])
    except ValueError:
        return {}
    known = numbers[np.isfinite(numbers)]
    if len(distinct) < 2 or len(known) == 0:
        return {}
    third = np.digitize(numbers, np.quantile(known, (1 / 3, 2 / 3)), right=True)
    groups = {}
    for n in range(3):
        members = np.isfinite(numbers) & (third == n)
        if members.any():
            inside = sorted(np.asarray(values)[members], key=float)
            groups[f"{column} {inside[0]}–{inside[-1]}"] = members
    return groups


def subgroups(predictions: Predictions, groups: Mapping[str, NDArray[np.bool_]]) -> list[Subgroup]:
    """Measure each group: sensitivity over its positive images, specificity over the negative.

    Args:
        predictions: The images and what was said of them.
        groups: Which images belong to it, bool (n,), by name; all images come first in the result.
    """
    called = predictions.decisions == 1
    everything = {"all": np.ones(len(predictions), dtype=bool)}
    found = []
    for name, members in {**everything, **groups}.items():
        for label, metric in ((1, "sensitivity"), (0, "specificity")):
            here = np.flatnonzero(members & (predictions.truth == label))
            if len(here) == 0:
                continue
            right = called[here] == bool(label)
            patients = [predictions.patients[position] for position in here.tolist()]
            value = float(right.mean())
            interval = _interval(right, patients)
            found.append(Subgroup(name, metric, len(here), value, interval))
    return found


def _interval(right: NDArray[np.bool_], patients: Sequence[str]) -> Interval:
    if right.all() == right.any():
        n_patients = len(set(patients))
        return exact_interval(n_patients * int(right.all()), n_patients)
    resampled = [
        (weights @ right) / weights.sum(axis=1)
        for weights in resampled_weights(patients, _RESAMPLES, seed=0)
    ]
    return percentile_interval(np.concatenate(resampled))


def forest_plot(rows: list[Subgroup], *, title: str) -> Figure:
    """Draw each group's metric with its interval, a row a group."""
    figure = blank_figure(9, 1.3 + 0.42 * len(rows), title)
    axes = figure.subplots()
    positions = list(range(len(rows), 0, -1))
    for position, row in zip(positions, rows, strict=True):
        axes.plot(row.interval, [position, position], color=GREY, linewidth=2)
        axes.plot([row.value], [position], "o", color=BLUE, markersize=7)
        axes.annotate(
            value_text(row.value, row.interval),
            (1.02, position),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=SMALL_SIZE,
        )
    names = [
        plain(f"{row.metric}, {shorten(row.name, 40, placeholder='…')} (n = {row.n_images:,})")
        for row in rows
    ]
    axes.set_yticks(positions, names)
    tidy(axes)
    lowest = min(row.interval[0] for row in rows)
    axes.set(xlim=(max(0, lowest - 0.05), 1.005), ylim=(0.4, len(rows) + 0.6))
    return figure
