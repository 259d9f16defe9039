"""Figures, galleries and the choice of examples, judged by what stands on their axes."""

import io
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from pneumonia.config.data import DataSettings
from pneumonia.data.augment import Augmentation
from pneumonia.data.dataset import load_data_set
from pneumonia.data.decode import Preprocessing
from pneumonia.evaluation import figures, gallery, study_figures
from pneumonia.evaluation.batch_figure import augmented_batch
from pneumonia.evaluation.gallery import Example
from pneumonia.evaluation.score_figure import score_histogram
from pneumonia.evaluation.study_figures import Importance
from pneumonia.evaluation.trial_figures import (
    TrialShown,
    parallel_coordinates,
    slices,
    trial_curves,
)

NAMES = ("NORMAL", "PNEUMONIA")
TRUTH = np.array([0, 0, 0, 1, 1, 1, 1, 1])
PROBABILITY = np.array([0.1, 0.2, 0.7, 0.3, 0.6, 0.8, 0.9, 0.95])


def png(figure: Figure) -> Image.Image:
    """Render, with any warning (such as of a missing glyph) an error."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(buffer, format="png")
    return Image.open(buffer)


def texts(figure: Figure) -> str:
    found = [text.get_text() for text in figure.findobj(lambda item: hasattr(item, "get_text"))]
    return "\n".join(found)


def history(epochs: int, **changes: float) -> list[dict[str, float]]:
    return [
        {
            "epoch": epoch,
            "train/loss": 1 / epoch,
            "val/loss": 1.2 / epoch,
            "train/accuracy": 1 - 0.4 / epoch,
            "val/accuracy": 1 - 0.5 / epoch,
            "val/auc": 1 - 0.3 / epoch,
        }
        | changes
        for epoch in range(1, epochs + 1)
    ]


def example(**changes: object) -> Example:
    fields: dict[str, object] = {
        "image": np.full((40, 50), 128, np.uint8),
        "truth": "NORMAL",
        "predicted": "NORMAL",
        "probability": 0.25,
        "name": "IM-0001-0001.jpeg",
        "heat": np.linspace(0, 1, 49, dtype=np.float32).reshape(7, 7),
    }
    return Example(**(fields | changes))


# --- Curves ---


def test_learning_curves_show_every_epoch_and_mark_the_best() -> None:
    figure = figures.learning_curves(history(5), best_epoch=3)
    loss, accuracy = figure.axes
    assert loss.get_title("left") == "Loss"
    curves = [line for line in loss.lines if len(line.get_xdata()) == 5]
    assert [list(line.get_ydata()) for line in curves] == [
        [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5],
        [1.2 / epoch for epoch in range(1, 6)],
    ]
    for axes in (loss, accuracy):
        assert "best epoch 3" in [text.get_text() for text in axes.texts]
        assert [3, 3] in [list(line.get_xdata()) for line in axes.lines]
    legend = [text.get_text() for text in accuracy.get_legend().get_texts()]
    assert legend == ["training 0.867", "validation 0.833", "validation AUC 0.900"]


@pytest.mark.parametrize("epochs", [1, 2, 7, 45])
def test_epochs_are_counted_in_whole_numbers(epochs: int) -> None:
    figure = figures.learning_curves(history(epochs), best_epoch=1)
    png(figure)
    for axes in figure.axes:
        low, high = axes.get_xlim()
        shown = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert shown
        assert all(tick == round(tick) for tick in shown)


def test_a_single_epoch_is_visible_as_markers() -> None:
    loss, _ = figures.learning_curves(history(1), best_epoch=1).axes
    assert [line.get_marker() for line in loss.lines[:2]] == ["o", "o"]


def test_an_undefined_auc_is_left_out() -> None:
    figure = figures.learning_curves(history(3, **{"val/auc": float("nan")}), best_epoch=2)
    png(figure)
    assert "validation AUC" not in texts(figure)


def test_an_auc_defined_in_every_other_epoch_is_visible() -> None:
    epochs = [item | {"val/auc": [0.6, float("nan")][k % 2]} for k, item in enumerate(history(40))]
    _, accuracy = figures.learning_curves(epochs, best_epoch=1).axes
    assert [line.get_marker() for line in accuracy.lines[:3]] == ["", "", "o"]


def test_no_epoch_gives_a_sentence() -> None:
    assert "No epoch" in texts(figures.learning_curves([], best_epoch=0))


# --- Confusion matrices ---


def cell_texts(figure: Figure, panel: int) -> list[str]:
    return [text.get_text() for text in figure.axes[panel].texts if text.get_text()]


def test_confusion_matrices_count_and_normalise_by_true_class() -> None:
    predicted = (PROBABILITY >= 0.5).astype(int)
    figure = figures.confusion_matrices(TRUTH, predicted, NAMES, title="test")
    assert cell_texts(figure, 0) == ["2", "1", "1", "4"]
    assert cell_texts(figure, 1) == [
        *("66.7%", "specificity", "33.3%", "false positive rate"),
        *("20.0%", "false negative rate", "80.0%", "sensitivity"),
    ]
    for axes in figure.axes:
        assert [label.get_text() for label in axes.get_xticklabels()] == list(NAMES)
        assert axes.get_ylabel() == "true class"


def test_cell_text_contrasts_with_its_cell() -> None:
    truth, predicted = np.array([0] * 10 + [1] * 10), np.array([0] * 10 + [1] * 9 + [0])
    figure = figures.confusion_matrices(truth, predicted, NAMES, title="")
    colours = {text.get_text(): to_hex(text.get_color()) for text in figure.axes[0].texts}
    assert colours["10"] == "#ffffff"
    assert colours["0"] == colours["1"] == figures.INK


@pytest.mark.parametrize("label", [0, 1])
def test_a_class_that_never_occurs_leaves_no_nan(label: int) -> None:
    figure = figures.confusion_matrices(np.full(4, label), np.array([0, 1, 1, 1]), NAMES, title="")
    png(figure)
    assert "nan" not in texts(figure)
    assert cell_texts(figure, 1).count("no images") == 2
    assert np.isfinite(np.asarray(figure.axes[1].images[0].get_array())).all()


# --- ROC, and precision and recall ---


def test_the_operating_point_lies_on_both_curves() -> None:
    figure = figures.roc_and_precision_recall(TRUTH, PROBABILITY, title="test", threshold=0.65)
    roc, tradeoff = figure.axes
    points = [
        (float(line.get_xdata()[0]), float(line.get_ydata()[0]))
        for axes in (roc, tradeoff)
        for line in axes.lines
        if line.get_linestyle() == "None"
    ]
    assert points == [pytest.approx((1 / 3, 3 / 5)), pytest.approx((3 / 5, 3 / 4))]
    assert roc.get_title() == "ROC, AUC 0.867"
    assert "average precision 0.927" in tradeoff.get_title()
    assert "base rate 62.5%" in texts(figure)
    assert "threshold 0.65: sensitivity 60.0%, specificity 66.7%" in texts(figure)


def test_no_operating_point_of_precision_where_nothing_is_called_positive() -> None:
    figure = figures.roc_and_precision_recall(TRUTH, PROBABILITY, title="", threshold=0.99)
    png(figure)
    assert "precision nan" not in texts(figure)
    assert "sensitivity 0.0%, specificity 100.0%" in texts(figure)


@pytest.mark.parametrize(
    ("truth", "words"), [([0, 0], "one class"), ([1], "one class"), ([], "no images")]
)
def test_one_class_gives_a_sentence_instead_of_curves(truth: list[int], words: str) -> None:
    figure = figures.roc_and_precision_recall(
        np.array(truth, int), np.full(len(truth), 0.4), title="clinic"
    )
    png(figure)
    assert not figure.axes
    assert words in texts(figure)
    assert "clinic" in texts(figure)


# --- Text of any characters ---

WEIRD_NAMES = (
    "$x_1^{2$.jpeg",
    r"\frac{1}{$.jpeg",
    "two\nlines\r\n\tand\x00control\x1b.png",
    "患者 001 肺炎.jpeg",
    "👩‍⚕️ صدر 폐렴.png",
    "undecodable \udcff.png",
    "%s {} _^ & # ~.png",
    "long " * 60 + ".jpeg",
    "",
)


@pytest.mark.parametrize("name", WEIRD_NAMES)
def test_any_name_can_be_drawn(name: str) -> None:
    shown = gallery.prediction_gallery([example(name=name, predicted=name)], title=name)
    png(shown)
    assert "\n" not in shown.axes[0].get_xlabel()
    png(gallery.explanation_gallery([example(name=name)], title=name))


def test_names_of_classes_and_parameters_can_be_anything() -> None:
    name = "$a_患\n" * 30
    png(figures.confusion_matrices(TRUTH, TRUTH, (name, name + "b"), title=name))
    found = [Importance(text, 0.5, (0.2, 0.6), text) for text in (name, "b$")]
    png(study_figures.parameter_importance(found, metric=name[:9]))
    png(study_figures.optimisation_history([1.0], ["complete"], metric=name[:9], maximize=True))


@settings(max_examples=100, deadline=None)
@given(st.text(), st.integers(min_value=1, max_value=40))
def test_shortened_text_keeps_both_ends_and_its_limit(text: str, limit: int) -> None:
    shown = figures.shorten(text, limit).replace(r"\$", "$")
    assert len(shown) <= limit
    assert "\n" not in shown
    if len(text) <= limit:
        assert shown == figures.plain(text).replace(r"\$", "$")
    elif limit >= 3:
        assert "…" in shown
        assert shown[0] == figures.plain(text[0]).replace(r"\$", "$")
        assert shown[-1] == figures.plain(text[-1]).replace(r"\$", "$")


# --- Galleries ---


def test_titles_give_prediction_and_truth_and_errors_are_red() -> None:
    figure = gallery.prediction_gallery(
        [
            example(predicted="PNEUMONIA", probability=0.91),
            example(),
            example(truth=None, predicted="PNEUMONIA", probability=0.6),
        ],
        title="worst",
    )
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["PNEUMONIA (NORMAL)  0.910", "NORMAL (NORMAL)  0.250", "PNEUMONIA  0.600"]
    red = [axes.title.get_color() == figures.RED for axes in figure.axes]
    assert red == [True, False, False]
    framed = [axes.spines["left"].get_visible() for axes in figure.axes]
    assert framed == red
    assert figure.axes[0].get_xlabel() == "IM-0001-0001.jpeg"
    assert figure.get_suptitle() == "worst"


@pytest.mark.parametrize("count", [1, 2, 5, 16, 23])
@pytest.mark.parametrize("shape", [(30, 44), (40, 40), (60, 40)])
def test_galleries_are_never_much_taller_than_wide(count: int, shape: tuple[int, int]) -> None:
    examples = [example(image=np.zeros(shape, np.uint8))] * count
    for figure in (gallery.prediction_gallery(examples), gallery.explanation_gallery(examples)):
        width, height = figure.get_size_inches()
        assert 9 <= width <= 12
        assert height <= 1.2 * width


def test_sixteen_images_stand_in_four_columns_without_overlap() -> None:
    figure = gallery.prediction_gallery([example(image=np.zeros((64, 64), np.uint8))] * 16)
    image = png(figure)
    assert image.width == 1000
    assert figure.axes[0].get_gridspec().get_geometry() == (4, 4)
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    assert not any(
        one.overlaps(other) for place, one in enumerate(boxes) for other in boxes[:place]
    )


def test_images_keep_their_brightness_and_large_ones_are_shrunk() -> None:
    dim = np.full((900, 1200), 60, np.uint8)
    (axes,) = gallery.prediction_gallery([example(image=dim)]).axes
    (shown,) = axes.images
    assert max(shown.get_array().shape) <= 512
    assert shown.get_clim() == (0, 255)
    assert (np.asarray(shown.get_array()) == 60).all()


def test_no_examples_give_a_sentence() -> None:
    assert "no images" in texts(gallery.prediction_gallery([]))
    assert "no images" in texts(gallery.explanation_gallery([]))


def test_explanations_pair_each_image_with_its_overlay() -> None:
    figure = gallery.explanation_gallery([example(), example(heat=None)] * 5)
    png(figure)
    pairs = [axes for axes in figure.axes if axes.images]
    assert len(pairs) == 8
    assert len([axes for axes in figure.axes if "Grad-CAM" in axes.get_ylabel()]) == 1
    with_heat, without = (np.asarray(axes.images[0].get_array()) for axes in pairs[:2])
    assert with_heat.shape == (40, 101, 3)
    assert (with_heat[:, :50] == 128).all()
    assert (with_heat[:, 51:] == gallery.overlay(example().image, example().heat)).all()
    assert (without[:, 51:] == 128).all()


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=30)),
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=8),
        elements=st.floats(0, 1, width=32),
    ),
)
def test_an_overlay_is_in_colour_and_as_large_as_its_image(
    image: np.ndarray, heat: np.ndarray
) -> None:
    laid = gallery.overlay(image, heat)
    assert laid.shape == (*image.shape, 3)
    assert laid.dtype == np.uint8
    cold = gallery.overlay(image, np.zeros_like(heat))
    assert (cold == image[..., np.newaxis]).all()


def test_heat_colours_the_place_it_lies_on() -> None:
    heat = np.zeros((4, 4), np.float32)
    heat[0, 3] = 1
    laid = gallery.overlay(np.full((80, 120), 100, np.uint8), heat).astype(int)
    colourfulness = laid.max(axis=2) - laid.min(axis=2)
    row, column = np.unravel_index(colourfulness.argmax(), colourfulness.shape)
    assert row < 20
    assert column >= 90
    assert colourfulness[40:, :60].max() == 0


def test_undefined_heat_is_none() -> None:
    image = np.full((9, 9), 50, np.uint8)
    assert (gallery.overlay(image, np.full((3, 3), np.nan, np.float32)) == 50).all()


# --- The choice of examples ---


@st.composite
def answers(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    size = draw(st.integers(0, 40))
    truth = draw(hnp.arrays(np.int64, size, elements=st.integers(0, 1)))
    probability = draw(hnp.arrays(np.float64, size, elements=st.floats(0, 1)))
    return truth, probability


@settings(max_examples=200, deadline=None)
@given(answers(), st.integers(0, 20), st.floats(0.05, 0.95))
def test_errors_come_first_and_correct_ones_are_balanced(
    given_answers: tuple[np.ndarray, np.ndarray], count: int, threshold: float
) -> None:
    truth, probability = given_answers
    chosen = gallery.choose_examples(truth, probability, count=count, threshold=threshold)
    assert chosen == gallery.choose_examples(truth, probability, count=count, threshold=threshold)
    assert len(chosen) == len(set(chosen)) == min(count, len(truth))

    wrong = (probability >= threshold) != (truth == 1)
    distance = np.abs(probability - truth)
    errors = [index for index in chosen if wrong[index]]
    correct = [index for index in chosen if not wrong[index]]
    assert chosen == errors + correct
    worst = sorted(distance[wrong], reverse=True)[: len(errors)]
    assert [distance[index] for index in errors] == worst
    if correct and len(errors) < wrong.sum():
        assert len(errors) >= len(chosen) / 2

    taken = np.bincount(truth[correct], minlength=2)
    there = np.bincount(truth[~wrong], minlength=2)
    scarce = int(taken.argmin())
    assert abs(taken[0] - taken[1]) <= 1 or taken[scarce] == there[scarce]


def test_correct_examples_span_all_confidences() -> None:
    probability = np.linspace(0.501, 1, 100)
    chosen = gallery.choose_examples(np.ones(100, int), probability, count=4)
    assert sorted(np.digitize(probability[chosen], [0.625, 0.75, 0.875])) == [0, 1, 2, 3]


def test_many_errors_leave_room_for_correct_ones() -> None:
    truth = np.array([0] * 50 + [1] * 50)
    probability = np.where(np.arange(100) % 10 < 6, 1 - truth, truth).astype(float)
    chosen = gallery.choose_examples(truth, probability, count=8)
    wrong = (probability >= 0.5) != (truth == 1)
    assert [bool(wrong[index]) for index in chosen] == [True] * 4 + [False] * 4


# --- Studies ---


def test_history_draws_states_apart_and_only_completed_trials_as_best() -> None:
    figure = study_figures.optimisation_history(
        [0.7, 0.99, None, 0.8, 0.75, 0.2],
        ["COMPLETE", "PRUNED", "FAIL", "COMPLETE", "COMPLETE", "RUNNING"],
        metric="auc",
        maximize=True,
    )
    png(figure)
    (axes,) = figure.axes
    (best,) = axes.lines
    assert list(best.get_xdata()) == [0, 3, 4, 5]
    assert list(best.get_ydata()) == [0.7, 0.8, 0.8, 0.8]
    assert best.get_drawstyle() == "steps-post"
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["complete (3)", "pruned (1)", "failed (1)", "best so far"]
    assert axes.get_title("left") == "auc by trial, best 0.8000 in trial 3"


@pytest.mark.parametrize("maximize", [True, False])
def test_the_best_line_follows_the_direction(maximize: bool) -> None:
    figure = study_figures.optimisation_history(
        [3.0, 1.0, 5.0], ["complete"] * 3, metric="loss", maximize=maximize
    )
    expected = [3, 3, 5, 5] if maximize else [3, 1, 1, 1]
    assert list(figure.axes[0].lines[0].get_ydata()) == expected


@pytest.mark.parametrize(
    ("values", "states"),
    [([None], ["failed"]), ([None, 0.5], ["failed", "pruned"]), ([float("nan")], ["complete"])],
)
def test_a_history_without_a_best_can_be_drawn(
    values: list[float | None], states: list[str]
) -> None:
    figure = study_figures.optimisation_history(values, states, metric="auc", maximize=True)
    png(figure)
    assert "best" not in texts(figure)


def test_an_empty_history_gives_a_sentence() -> None:
    figure = study_figures.optimisation_history([], [], metric="auc", maximize=True)
    assert "No trial" in texts(figure)


def test_the_most_important_parameter_is_at_the_top() -> None:
    found = [
        Importance("dropout", 0.1, (0.0, 0.2), ""),
        Importance("learning_rate", 0.65, (0.4, 0.8), "less"),
        Importance("flip", 0.25, (0.1, 0.25), ""),
    ]
    (axes,) = study_figures.parameter_importance(found, metric="auc").axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["dropout", "flip", "learning_rate"]
    assert [bar.get_width() for bar in axes.patches] == [0.1, 0.25, 0.65]
    written = ["10.0%", "25.0%", "65.0%, less is better"]
    assert [text.get_text() for text in axes.texts] == written


def test_parameters_whose_shortened_names_are_equal_keep_their_bars() -> None:
    found = [
        Importance("a" * 40 + middle + "b" * 40, share, (share, share), "")
        for middle, share in (("x", 0.3), ("y", 0.7))
    ]
    (axes,) = study_figures.parameter_importance(found, metric="auc").axes
    assert len({bar.get_y() for bar in axes.patches}) == 2


def test_long_names_of_metrics_leave_room_for_the_panel() -> None:
    name = "$m" + "m" * 200
    png(study_figures.optimisation_history([1.0], ["complete"], metric=name, maximize=True))
    png(study_figures.parameter_importance([Importance("a", 1.0, (1, 1), name)], metric=name))


def test_no_importances_give_the_reason() -> None:
    figure = study_figures.parameter_importance([], metric="auc")
    png(figure)
    assert "at least 4 completed trials" in texts(figure).replace("\n", " ")


def test_importances_may_all_be_nothing() -> None:
    nothing = [Importance(name, 0.0, (0.0, 0.0), "") for name in "ab"]
    png(study_figures.parameter_importance(nothing, metric="auc"))


# --- All of them ---


def test_figures_can_be_drawn_in_threads_without_pyplot() -> None:
    def draw(place: int) -> int:
        figure = figures.roc_and_precision_recall(TRUTH, PROBABILITY, title=str(place))
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        return Image.open(buffer).width

    before = "matplotlib.pyplot" in sys.modules
    with ThreadPoolExecutor(max_workers=4) as threads:
        assert list(threads.map(draw, range(8))) == [1000] * 8
    assert ("matplotlib.pyplot" in sys.modules) == before


def _trial(number: int, value: float | None, reported: dict[int, float]) -> TrialShown:
    drawn = {"learning_rate": 10.0**-number, "optimizer": "adam"}
    return TrialShown(number, value, reported, drawn, frozenset({"learning_rate"}))


def test_curves_of_trials_show_the_best_on_top_and_the_pruned_in_grey() -> None:
    trials = [
        _trial(1, 0.8, {1: 0.7, 2: 0.8}),
        _trial(2, None, {1: 0.5}),
        _trial(3, 0.9, {1: 0.6, 2: 0.9}),
        _trial(4, None, {}),
    ]
    (axes,) = trial_curves(trials, 3, metric="val/auc").axes
    by_label = {line.get_label(): line for line in axes.lines}
    assert set(by_label) == {"best (trial 3)", "complete", "pruned or failed"}
    assert list(by_label["best (trial 3)"].get_ydata()) == [0.6, 0.9]
    assert axes.lines[-1] is by_label["best (trial 3)"]
    assert by_label["pruned or failed"].get_color() == figures.GREY
    assert axes.get_title(loc="left") == "val/auc of 3 trials"


def test_slices_have_a_panel_a_parameter_and_a_dot_a_complete_trial() -> None:
    trials = [_trial(1, 0.8, {1: 0.8}), _trial(2, None, {1: 0.5}), _trial(3, 0.9, {1: 0.9})]
    figure = slices(trials, 3, metric="val/auc")
    rate, optimizer = figure.axes
    assert (rate.get_xlabel(), optimizer.get_xlabel()) == ("learning_rate", "optimizer")
    assert (rate.get_xscale(), optimizer.get_xscale()) == ("log", "linear")
    assert rate.collections[0].get_offsets().tolist() == [[0.1, 0.8], [0.001, 0.9]]
    assert slices([_trial(1, None, {1: 0.5})], 1, metric="val/auc").texts


def test_parallel_coordinates_have_a_line_a_complete_trial_across_all_settings() -> None:
    trials = [_trial(1, 0.8, {1: 0.8}), _trial(2, None, {1: 0.5}), _trial(3, 0.9, {1: 0.9})]
    figure = parallel_coordinates(trials, 3, metric="val/auc", maximize=True)
    png(figure)
    (axes,) = figure.axes
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names == ["learning_rate", "optimizer", "val/auc"]
    lines = {
        line.get_label(): list(line.get_ydata())
        for line in axes.lines
        if len(line.get_xdata()) == 3
    }
    assert lines["best (trial 3)"] == [0, 0.5, 1]  # the least learning rate, the highest AUC
    assert sorted(lines.values()) == [[0, 0.5, 1], [1, 0.5, 0]]
    assert parallel_coordinates([], 0, metric="val/auc", maximize=True).texts


def test_augmented_images_stand_below_the_originals(xrays: Path) -> None:
    settings = DataSettings(data=str(xrays))
    images = load_data_set(settings, Preprocessing(32)).open(Preprocessing(32))["train"]
    unchanged = Augmentation(strength=0)
    for how, equal in ((unchanged, True), (replace(unchanged, strength=1), False)):
        figure = augmented_batch(images, how, ("NORMAL", "PNEUMONIA"), title="xrays")
        shown = [axes.images[0].get_array() for axes in figure.axes]
        assert len(shown) == 24
        assert np.allclose(shown[0], shown[6], atol=1) is equal
        assert {axes.get_title() for axes in figure.axes[:6]} <= {"NORMAL", "PNEUMONIA"}


def test_score_histograms_count_the_images_of_each_class() -> None:
    figure = score_histogram(TRUTH, PROBABILITY, NAMES, threshold=0.5, title="test")
    (axes,) = figure.axes
    by_class = {bars.get_label(): [bar.get_height() for bar in bars] for bars in axes.containers}
    assert set(by_class) == {"NORMAL (3)", "PNEUMONIA (5)"}
    assert sum(by_class["NORMAL (3)"]) == 3
    assert sum(by_class["NORMAL (3)"][10:]) == 1  # 0.7
    assert "threshold 0.5" in texts(figure)
    png(figure)
