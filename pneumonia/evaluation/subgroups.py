"""Sensitivity and specificity of groups of images, such as those of one pathogen."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pneumonia.evaluation.figures import BLUE, GREY, SMALL_SIZE, blank_figure, plain, tidy
from pneumonia.evaluation.intervals import Interval, percentile_interval, resampled_weights
from pneumonia.evaluation.predictions import Predictions

_RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Subgroup:
    """A metric of some of the images.

    Attributes:
        name: The group.
        metric: ``sensitivity`` or ``specificity``.
        n_images: Images of the class that the metric is about.
        value: The metric, 0–1.
        interval: Its 95 % interval, by bootstrap over patients.
    """

    name: str
    metric: str
    n_images: int
    value: float
    interval: Interval


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
            resampled = [
                (weights @ right) / weights.sum(axis=1)
                for weights in resampled_weights(patients, _RESAMPLES, seed=0)
            ]
            interval = percentile_interval(np.concatenate(resampled))
            found.append(Subgroup(name, metric, len(here), float(right.mean()), interval))
    return found


def forest_plot(rows: list[Subgroup], *, title: str) -> Figure:
    """Draw each group's metric with its interval, a row a group."""
    figure = blank_figure(9, 1.3 + 0.42 * len(rows), title)
    axes = figure.subplots()
    places = list(range(len(rows), 0, -1))
    for place, row in zip(places, rows, strict=True):
        axes.plot(row.interval, [place, place], color=GREY, linewidth=2)
        axes.plot([row.value], [place], "o", color=BLUE, markersize=7)
        low, high = row.interval
        axes.annotate(
            f"{row.value:.3f} ({low:.3f}–{high:.3f})",
            (1.02, place),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=SMALL_SIZE,
        )
    names = [plain(f"{row.metric}, {row.name} (n = {row.n_images:,})") for row in rows]
    axes.set_yticks(places, names)
    tidy(axes)
    lowest = min(row.interval[0] for row in rows)
    axes.set(xlim=(max(0, lowest - 0.05), 1.005), ylim=(0.4, len(rows) + 0.6))
    return figure
