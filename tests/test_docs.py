"""What the documentation says can be typed, and what it links to is there."""

import ast
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from pneumonia.cli import cli
from pneumonia.prediction.spark import RESULT_TYPE

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted(ROOT.glob("*/README.md")),
    *sorted(ROOT.glob("tests/*/README.md")),
    *sorted(ROOT.glob("docs/pages/*.md")),
]


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language."""
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands() -> list[tuple[str, str]]:
    """Each ``pneumonia`` command line of the documentation, with the name of its page."""
    lines = [
        (page.name, line)
        for page in PAGES
        for block in blocks(page, "bash")
        for line in re.split(r"\n|\||&&", block.replace("\\\n", " "))
    ]
    typed = [(page, re.search(r"(?:^|-m )(pneumonia .*)", line.strip())) for page, line in lines]
    return [(page, match[1]) for page, match in typed if match]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles]
            assert anchor in anchors, target


def test_commands_can_be_typed() -> None:
    """Their commands and options exist, and take the values that are given."""
    assert len(commands()) > 40
    for page, line in commands():
        words = shlex.split(line.partition(" >")[0], comments=True)[1:]
        words = [word for word in words if word != "…"]
        with click.Context(cli) as ctx:
            _, command, rest = cli.resolve_command(ctx, words)
            assert command is not None
            try:
                if isinstance(command, click.Group):
                    _, command, rest = command.resolve_command(ctx, rest)
                assert command is not None
                command.make_context(line, rest, resilient_parsing=False)
            except click.exceptions.Exit:
                pass  # --help
            except click.UsageError as error:
                pytest.fail(f"{page}: {line}: {error.format_message()}")


def test_python_examples_compile() -> None:
    examples = [(page, code) for page in PAGES for code in blocks(page, "python")]
    assert len(examples) >= 3
    for page, code in examples:
        ast.parse(code, filename=page.name)


def test_the_spark_example_has_the_columns_of_the_model() -> None:
    (example,) = [
        code for code in blocks(ROOT / "docs/pages/prediction.md", "python") if "udf" in code
    ]
    assert f'result_type="{RESULT_TYPE}"' in example


@pytest.mark.skipif(shutil.which("mkdocs") is None, reason="needs mkdocs: pip install -e '.[docs]'")
def test_the_documentation_builds_without_a_warning(tmp_path: Path) -> None:
    command = ["mkdocs", "build", "-q", "-f", ROOT / "docs/mkdocs.yml", "-d", tmp_path / "site"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    api = (tmp_path / "site" / "api" / "index.html").read_text(encoding="utf-8")
    for name in ("train", "predict", "load_model", "cross_validate", "evaluate"):
        assert re.search(rf'id="pneumonia[\w.]*\.{name}"', api), name
