"""A document of sections, as Markdown and as one HTML page that needs nothing else."""

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Table = Sequence[Sequence[str]]
"""Rows of cells; the first row is the header."""

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.7rem; line-height: 1.25; }
h2 { font-size: 1.25rem; margin-top: 2.2rem; border-bottom: 1px solid #ddd; padding-bottom: .2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid #eee; }
th { border-bottom: 2px solid #bbb; }
img { max-width: 100%; height: auto; display: block; margin: 1rem 0; }
pre { background: #f5f5f5; padding: .8rem; white-space: pre-wrap; overflow-wrap: anywhere; }
"""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a document.

    Attributes:
        title: Its heading.
        text: Paragraphs of plain text, between blank lines.
        table: Shown below the text.
        code: Shown below the table, as it is.
        figures: Names of the figures shown last.
    """

    title: str
    text: str = ""
    table: Table = ()
    code: str = ""
    figures: Sequence[str] = ()


def as_markdown(sections: Sequence[Section]) -> str:
    """Write the sections as Markdown, without their figures."""
    blocks = []
    for section in sections:
        blocks.append(f"## {section.title}")
        if section.text:
            blocks.append(section.text)
        if section.table:
            header, *rows = section.table
            lines = [header, ["---"] * len(header), *rows]
            blocks.append("\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines))
        if section.code:
            blocks.append(f"```\n{section.code}\n```")
    return "\n\n".join(blocks) + "\n"


def as_html(title: str, sections: Sequence[Section], figures: Mapping[str, bytes]) -> str:
    """Write the sections as a page, with the figures in it.

    Args:
        title: The heading of the page.
        sections: Its parts.
        figures: PNG files by name; those that no section names are left out.
    """
    body = "\n".join(_section(section, figures) for section in sections)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{html.escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def _section(section: Section, figures: Mapping[str, bytes]) -> str:
    parts = [f"<h2>{html.escape(section.title)}</h2>"]
    if section.text:
        parts += [f"<p>{html.escape(text)}</p>" for text in section.text.split("\n\n")]
    if section.table:
        header, *rows = section.table
        lines = [_row("th", header), *(_row("td", row) for row in rows)]
        parts.append(f'<div class="wide"><table>\n{"".join(lines)}</table></div>')
    if section.code:
        parts.append(f"<pre>{html.escape(section.code)}</pre>")
    for name in section.figures:
        if name in figures:
            encoded = base64.b64encode(figures[name]).decode()
            described = html.escape(name.replace("_", " "))
            parts.append(f'<img alt="{described}" src="data:image/png;base64,{encoded}">')
    return "\n".join(parts)


def _row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
