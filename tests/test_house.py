"""What holds for all code in `hn`, whatever it does."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
LONGEST = 60
"""Lines of a function, from `def` to its end: signature, docstring and comments count, decorators do not."""


def test_functions_are_short() -> None:
    long = [
        f"{file.relative_to(ROOT)}:{node.lineno} {node.name} has {lines} lines"
        for file in sorted((ROOT / "hn").rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := node.end_lineno - node.lineno + 1) > LONGEST
    ]
    assert not long
