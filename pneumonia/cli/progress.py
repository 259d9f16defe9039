"""How far a command is: a live bar on a terminal, a line now and then elsewhere."""

import logging
import shutil
import sys
import textwrap
import time
from typing import Any

import click

_SECONDS_BETWEEN_LINES = 300.0


class LogHandler(logging.StreamHandler[Any]):
    """Writes each record above the bar, where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, on a terminal in lines that fit."""
        if self.stream.isatty():
            from tqdm import tqdm

            lines = self.format(record).splitlines()
            tqdm.write("\n".join(wrap_line(line, "  ") for line in lines), file=self.stream)
        else:
            super().emit(record)


def wrap_line(line: str, indent: str) -> str:
    """Break a line between words where it is wider than the terminal.

    Args:
        line: The line; one that fits stays as it is.
        indent: What each further line begins with.
    """
    width = shutil.get_terminal_size().columns
    if len(line) <= width:
        return line
    return textwrap.fill(
        line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


class ProgressBar:
    """Shows how many images of how many are done, as a ``Progress``.

    On a terminal a bar, with the images a second and the time left, which vanishes when all are
    done; elsewhere a line every five minutes. Nothing with ``--quiet``.
    """

    def __init__(self) -> None:
        """Show nothing yet; the bar vanishes with the command that runs now."""
        self._doing = ""
        self._bar: Any = None
        self._last_line = time.monotonic()
        click.get_current_context().call_on_close(self.close)

    def __call__(self, doing: str, done: int, total: int = 0) -> None:
        """Show that so many images are done; a total of 0 is not known."""
        if not logging.getLogger("pneumonia").isEnabledFor(logging.INFO):
            return
        if not sys.stderr.isatty():
            self._write_line(doing, done, total)
            return
        if doing != self._doing:
            self.close()
        if self._bar is None:
            from tqdm import tqdm

            self._doing = doing
            self._bar = tqdm(
                desc=doing, total=total or None, initial=done, unit=" images", leave=False
            )
        self._bar.update(done - self._bar.n)
        if done == total:
            self.close()

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None

    def _write_line(self, doing: str, done: int, total: int) -> None:
        if not done or time.monotonic() - self._last_line < _SECONDS_BETWEEN_LINES:
            return
        self._last_line = time.monotonic()
        of_all = f"/{total:,}" if total else ""
        click.echo(f"{doing} {done:,}{of_all}", err=True)
