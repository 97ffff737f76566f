"""Whatever hn imports is declared, and pinned to the version it is tested with."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements: list[str]) -> set[str]:
    """Distributions of requirement lines, by their normal names."""
    return {normal(re.match(r"[\w.-]+", line)[0]) for line in requirements if re.match(r"\w", line)}


def imported(folder: Path) -> set[str]:
    """Top-level packages that the files below import, those of Python apart."""
    found = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"hn"}


def test_imported_packages_are_declared_and_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = names(project["dependencies"])
    pinned = names((ROOT / "constraints.txt").read_text().splitlines())
    extras = {name: names(lines) for name, lines in project["optional-dependencies"].items()}
    optional = set().union(*(extras[name] for name in extras.keys() - {"dev"}))
    distributions = packages_distributions() | {name: [name] for name in optional}  # which may not be installed
    needed = {package: {normal(name) for name in distributions[package]} for package in imported(ROOT / "hn")}
    assert {"torch", "yaml", "PIL"} <= needed.keys()
    assert [package for package, offers in needed.items() if not offers & (declared | optional)] == []
    assert declared | optional | extras["dev"] <= pinned


def test_the_hooks_run_the_pinned_ruff() -> None:
    (pin,) = re.findall(r"^ruff==\S+$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert re.findall(r"ruff==[\d.]+", (ROOT / ".pre-commit-config.yaml").read_text()) == [pin]
