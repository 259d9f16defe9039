"""What every benchmark prints: a table for people on stderr, the same as JSON on stdout."""

import json
import os
import platform
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import click

_VERSIONS = ("torch", "torchvision", "mlflow", "optuna", "pillow")


@dataclass(frozen=True, slots=True)
class Figure:
    """Something measured several times.

    Attributes:
        what: What it is, in words.
        values: One a repeat.
        unit: Its unit; none for a ratio.
        limit: What is asked of the median, as ``>= 0.97``, or what bounds it, in words.
    """

    what: str
    values: Sequence[float]
    unit: str = ""
    limit: str = ""

    @property
    def median(self) -> float:
        """The median over repeats."""
        return statistics.median(self.values)


def ratios(numerators: Iterable[float], denominators: Iterable[float]) -> list[float]:
    """Ratios of what was measured in turns: each with its neighbour, so that drift cancels."""
    return [above / below for above, below in zip(numerators, denominators, strict=True)]


def report(benchmark: str, figures: Sequence[Figure], **context: Any) -> None:
    """Print figures, with what they were measured on."""
    width = max(len(figure.what) for figure in figures)
    settings = ", ".join(f"{key} {value}" for key, value in context.items())
    click.echo(f"{benchmark}: {settings}", err=True)
    for figure in figures:
        spread = f"{_short(min(figure.values))}–{_short(max(figure.values))}"
        click.echo(
            f"  {figure.what:{width}}  {_short(figure.median):>8}  ({spread}) "
            f"{figure.unit}{'  asked: ' + figure.limit if figure.limit else ''}",
            err=True,
        )
    result = {
        "benchmark": benchmark,
        **context,
        "figures": [
            {
                "what": figure.what,
                "median": figure.median,
                "values": list(figure.values),
                "unit": figure.unit,
                "limit": figure.limit,
            }
            for figure in figures
        ],
        "machine": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in _VERSIONS},
    }
    json.dump(result, sys.stdout)
    click.echo()


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())
