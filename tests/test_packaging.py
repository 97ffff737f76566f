"""The wheel holds all that hn needs: installed without a checkout, its commands work in any folder."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILT_FROM = ("pyproject.toml", "README.md", "LICENSE", "hn", "data", "experiments")

pytestmark = [pytest.mark.packaging, pytest.mark.slow]

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel installed, without dependencies; built from a copy, as building leaves files behind."""
    source, wheels, target = (tmp_path_factory.mktemp(name) for name in ("source", "wheels", "installed"))
    for name in BUILT_FROM:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", str(source), "--no-deps", "--no-build-isolation", "-w", str(wheels)], check=True)
    (wheel,) = wheels.iterdir()
    subprocess.run([*pip, "install", "--no-deps", "--target", str(target), str(wheel)], check=True)
    return target


@pytest.fixture
def run(installed: Path, tmp_path: Path) -> Run:
    """Runs Python in an empty folder, where `hn` is the installed one and everything else that of the tests."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}

    def run_python(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *words]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    return run_python


@pytest.fixture
def hn(installed: Path, run: Run) -> Run:
    """Runs the installed command."""
    return lambda *words: run(str(installed / "bin" / "hn"), *words)


def succeeded(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_package_is_the_installed_one(run: Run, installed: Path) -> None:
    file = succeeded(run("-c", "import hn; print(hn.__file__)")).strip()
    assert Path(file) == installed / "hn" / "__init__.py"


def test_every_bundled_file_is_in_the_wheel(installed: Path) -> None:
    for folder in ("experiments", "data/prompts", "data/miniature"):
        files = {path.relative_to(ROOT) for path in (ROOT / folder).rglob("*") if path.is_file()}
        files -= {path for path in files if folder == "experiments" and path.suffix != ".yaml"}
        assert len(files) > 5
        different = [
            file for file in files if (installed / "hn/_bundled" / file).read_bytes() != (ROOT / file).read_bytes()
        ]
        assert not different
    assert not any(path.is_symlink() for path in (installed / "hn").rglob("*"))


def test_prompt_sets_are_listed(hn: Run) -> None:
    assert "geneval" in succeeded(hn("prompts", "list"))


def test_images_are_made_without_an_experiment(hn: Run, tmp_path: Path) -> None:
    models = ("--generator", "data/miniature/pipeline", "--hypernet", "data/miniature/hypernet")
    succeeded(hn("generate", *models, "--prompt", "a photo of three stars", "--count", "1", "--output", "out"))
    assert (tmp_path / "out" / "metadata.json").is_file()


def test_an_experiment_is_named_and_brings_its_trained_weights(hn: Run, installed: Path) -> None:
    said = succeeded(hn("generate", "--config", "miniature", "--prompt", "a photo of three stars", "--count", "1"))
    assert str(installed / "hn/_bundled/data/miniature/hypernet") in said


@pytest.mark.timeout(1800)  # the test after training takes all prompts
def test_an_experiment_is_trained_by_its_name(hn: Run, tmp_path: Path) -> None:
    succeeded(hn("train", "--config", "miniature", "--trainer.max_steps", "2", "--run.name", "two_updates"))
    run = tmp_path / "runs" / "miniature" / "two_updates"
    assert {"config.yaml", "results.json", "hypernet", "checkpoints"} <= {path.name for path in run.iterdir()}


def test_the_python_lines_of_the_readme_run(run: Run) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert succeeded(run("-c", f"{code}\nprint(image.size)")).strip().endswith("(32, 32)")
