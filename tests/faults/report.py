"""What a command says at its end: a small table, counts as JSON, and an exit code."""

import json
import platform
import sys
from collections import Counter
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import click

_VERSIONS = ("mlflow", "optuna", "torch", "sqlalchemy", "filelock")
SAID_NO = 3


class Report:
    """Counts how often each property held."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.held: Counter[str] = Counter()
        self.broken: Counter[str] = Counter()
        self.breaches: list[str] = []

    def check(self, claim: str, breach: str = "", case: str = "") -> bool:
        """Count a property as held, or as broken with what was found instead."""
        if breach:
            self.broken[claim] += 1
            self.breaches.append(f"{case}: {claim}: {breach}" if case else f"{claim}: {breach}")
            click.echo(f"BROKEN {self.breaches[-1]}", err=True)
        else:
            self.held[claim] += 1
        return not breach

    def end(self, counts: Mapping[str, Any]) -> None:
        """Print the table and the counts, and leave with 0, or 3 where a property was broken."""
        claims = list(dict.fromkeys([*self.held, *self.broken]))
        width = max(map(len, claims), default=0)
        click.echo(f"\n{self.title}\n{'property':{width}}  held  broken")
        for claim in claims:
            click.echo(f"{claim:{width}}  {self.held[claim]:4}  {self.broken[claim]:6}")
        machine = f"{platform.machine()}, Python {platform.python_version()}"
        content = {
            **counts,
            "held": dict(self.held),
            "broken": dict(self.broken),
            "breaches": self.breaches,
            "machine": machine,
            "versions": {name: metadata.version(name) for name in _VERSIONS},
        }
        click.echo(json.dumps(content, indent=1))
        sys.exit(SAID_NO if self.breaches else 0)
