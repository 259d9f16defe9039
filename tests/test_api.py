"""The public Python API."""

import io
import re
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest

import pneumonia

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.parametrize("name", pneumonia.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    """Each name of the API can be imported and has a docstring."""
    assert getattr(pneumonia, name).__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A name that the package does not have is refused as by any module."""
    with pytest.raises(AttributeError, match="no attribute 'tain'"):
        _ = pneumonia.tain  # type: ignore[attr-defined]


def test_importing_the_package_imports_neither_torch_nor_mlflow() -> None:
    """The heavy libraries wait until a name is used."""
    code = "import sys, pneumonia; print({'torch', 'mlflow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_example_of_the_readme_runs(workplace: Path, xrays: Path) -> None:
    """The README's Python example trains, loads and predicts."""
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert 'data="chest_xray"' in example
    (workplace / "chest_xray").symlink_to(xrays)
    (workplace / "images").symlink_to(xrays / "test")
    quick = {"epochs=5": "epochs=1, image_size=32, batch_size=8", "resnet34": "simple_cnn"}
    for shown, run in quick.items():
        assert shown in example
        example = example.replace(shown, run)
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(example, {})
    rows = printed.getvalue().splitlines()
    assert len(rows) == len(list((xrays / "test").rglob("*.jpeg")))
    assert all(re.search(r"\.jpeg (NORMAL|PNEUMONIA) [01]\.\d+$", row) for row in rows)
