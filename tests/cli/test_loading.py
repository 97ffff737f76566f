"""Nothing in hn runs code that came with weights: an examination of its source."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "hn"
UNSAFE_MODULES = {"dill", "cloudpickle", "joblib", "shelve", "marshal"}


def constant(call: ast.Call, keyword: str) -> object:
    """The constant that a call gives a keyword; None if it does not, or gives something else."""
    values = (word.value for word in call.keywords if word.arg == keyword)
    return next((value.value for value in values if isinstance(value, ast.Constant)), None)


def unsafe(tree: ast.AST) -> list[str]:
    """What of a source file may run code that is read from elsewhere."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name.endswith("torch.load") and constant(node, "weights_only") is not True:
                found.append(f"{name} without weights_only=True")
            if name.split(".")[0] == "pickle" or name in ("eval", "exec"):
                found.append(name)
            if constant(node, "weights_only") is False:
                found.append(f"{name} with weights_only=False")
            for word in node.keywords:
                if word.arg in ("trust_remote_code", "allow_pickle") and constant(node, word.arg) is not False:
                    found.append(f"{name} with {word.arg}")
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in UNSAFE_MODULES]
        elif isinstance(node, ast.ImportFrom):
            if node.module in UNSAFE_MODULES:
                found.append(node.module)
            if node.module == "pickle":  # its errors are welcome
                found += [f"pickle.{alias.name}" for alias in node.names if not alias.name.endswith("Error")]
            if node.module == "torch":
                found += [f"torch.{alias.name}" for alias in node.names if alias.name == "load"]
    return found


def test_the_source_loads_no_pickles_and_no_code():
    files = sorted(SOURCE.rglob("*.py"))
    assert len(files) > 100
    found = {str(path.relative_to(SOURCE)): unsafe(ast.parse(path.read_text(encoding="utf-8"))) for path in files}
    assert {path: calls for path, calls in found.items() if calls} == {}


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=safe)",
        "from torch import load",
        "pickle.loads(content)",
        "from pickle import loads",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=option)",
        "numpy.load(path, allow_pickle=True)",
        "import joblib",
        "trainer.fit(module, weights_only=False)",
    ],
)
def test_the_examination_finds(source):
    assert unsafe(ast.parse(source))


def test_the_examination_lets_pass():
    source = "torch.load(path, weights_only=True)\nfrom pickle import UnpicklingError\nimport pickle\n"
    assert unsafe(ast.parse(source + "AutoModel.from_pretrained(name, trust_remote_code=False)")) == []
