"""A study as one page to zoom into and to point at, drawn by Plotly where that is installed."""

from html import escape
from importlib.util import find_spec

import optuna


def study_page(study: optuna.Study, metric: str) -> str | None:
    """One HTML page without external resources, of some 5 MB; None without Plotly.

    Args:
        study: A study with complete trials.
        metric: Name of its value.
    """
    if find_spec("plotly") is None:
        return None
    from optuna import visualization

    figures = [
        visualization.plot_optimization_history(study, target_name=metric),
        visualization.plot_intermediate_values(study),
        visualization.plot_parallel_coordinate(study, target_name=metric),
        visualization.plot_slice(study, target_name=metric),
    ]
    drawn = [
        figure.to_html(full_html=False, include_plotlyjs=position == 0)
        for position, figure in enumerate(figures)
    ]
    head = f'<meta charset="utf-8"><title>Study {escape(study.study_name)}</title>'
    return f"<!doctype html><html><head>{head}</head><body>{''.join(drawn)}</body></html>\n"
