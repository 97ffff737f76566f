"""Packages of `hn` import only packages below them."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = (
    ("utils",),
    ("objective", "data"),
    ("generators", "rewards"),
    ("hypernets",),
    ("search",),
    ("evaluation",),
    ("report",),
    ("training",),
    ("cli", "miniature"),
    ("__main__",),
)
"""From the bottom; those of one layer do not import each other."""
LEVELS = {package: level for level, packages in enumerate(LAYERS) for package in packages}


def imports(file: Path) -> Iterator[str]:
    """Packages of `hn` that a file imports, at its top or anywhere else."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.startswith("hn.") and (package := name.split(".")[1]) in LEVELS:
                yield package


@pytest.mark.parametrize("package", LEVELS)
def test_imports_run_one_way(package: str) -> None:
    path = ROOT / "hn" / package
    files = [*path.rglob("*.py")] if path.is_dir() else [path.with_suffix(".py")]
    assert files
    wrong = {
        f"{file.relative_to(ROOT)} imports hn.{other}"
        for file in files
        for other in imports(file)
        if other != package and LEVELS[other] >= LEVELS[package]
    }
    assert not wrong


def test_every_package_has_a_layer() -> None:
    there = {path.stem for path in (ROOT / "hn").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert there - {"__init__"} == LEVELS.keys()
