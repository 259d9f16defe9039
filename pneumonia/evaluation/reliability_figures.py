"""Figures of how far results carry: under changes of the images, and as probabilities."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from pneumonia.evaluation.arrays import Labels, Probabilities
from pneumonia.evaluation.calibration import reliability
from pneumonia.evaluation.figures import (
    BLUE,
    GREY,
    ORANGE,
    SMALL_SIZE,
    blank_figure,
    legend_below,
    plain,
    tidy,
)


def stress_chart(
    rows: Sequence[Mapping[str, float | str]], *, title: str, threshold: float
) -> Figure:
    """Draw AUC and balanced accuracy of the images as they are and under each change.

    Args:
        rows: As ``StressTest.table`` gives them.
        title: Stands above.
        threshold: At which the images were called positive.
    """
    figure = blank_figure(9, 1.6 + 0.3 * len(rows), title)
    axes = figure.subplots()
    positions = range(len(rows), 0, -1)
    aucs = [float(row["auc"]) for row in rows]
    balanced = [float(row["balanced_accuracy"]) for row in rows]
    for position, one, other in zip(positions, aucs, balanced, strict=True):
        axes.plot([one, other], [position, position], color="#C9C9C9", linewidth=1.5, zorder=1)
    axes.plot(aucs, positions, "o", color=BLUE, markersize=7, label="AUC")
    label = f"balanced accuracy at threshold {threshold:g}"
    axes.plot(balanced, positions, "D", color=ORANGE, markersize=6, label=label)
    axes.set_yticks(list(positions), [plain(str(row["change"])) for row in rows])
    tidy(axes)
    axes.axhline(len(rows) - 0.5, color=GREY, linewidth=0.8)
    axes.set(xlim=(min(0.5, *aucs, *balanced) - 0.01, 1.01), ylim=(0.4, len(rows) + 0.6))
    legend_below(axes)
    legend = axes.get_legend()
    if legend is not None:
        legend.set_bbox_to_anchor((0.5, -0.6 / figure.get_figheight()))
    return figure


def reliability_diagram(
    truth: Labels,
    before: Probabilities,
    after: Probabilities,
    names: tuple[str, str],
    *,
    title: str,
) -> Figure:
    """Draw the share of positive images by predicted probability, before and after calibration.

    Args:
        truth: 0 negative, 1 positive, int (n,).
        before: Probability of the positive class (n,).
        after: The same after calibration (n,).
        names: What the two are, each after the word "Probabilities".
        title: Stands above.
    """
    figure = blank_figure(10, 5.1, title)
    panels = figure.subplots(1, 2)
    for axes, name, probability in zip(panels, names, (before, after), strict=True):
        bins = reliability(truth, probability)
        axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
        means = [mean for mean, _, _ in bins]
        shares = [share for _, share, _ in bins]
        axes.plot(means, shares, "o-", color=BLUE, linewidth=1.5, markersize=6, clip_on=False)
        for mean, share, count in bins:
            at = {"xytext": (6, -11), "textcoords": "offset points", "fontsize": SMALL_SIZE - 1}
            axes.annotate(f"{count:,}", (mean, share), color=GREY, **at)
        tidy(axes)
        axes.set(title=f"Probabilities {name}", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        axes.set(xlabel="mean probability of the images in a tenth", ylabel="share of positives")
        axes.set_aspect("equal")
    return figure
