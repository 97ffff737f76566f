import json
import shutil
from pathlib import Path

import pytest
import torch

from hn.evaluation.detectors.miniature import GridDetector
from hn.generators.pipeline import DiffusersGenerator
from hn.miniature.recipe.__main__ import main
from hn.miniature.recipe.report import REWARDS, load_reward, write_report
from hn.miniature.recipe.run import STAGES, Product, Recipe


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return Recipe(tmp_path / "work", tmp_path / "out", tmp_path / "prompts", scale=0.0005)


@pytest.fixture
def made(recipe: Recipe) -> list[str]:
    """Stages that only leave an empty product; the list tells which ran."""
    names: list[str] = []

    def stand_in(name: str, path: Path) -> Product:
        def make() -> None:
            names.append(name)
            path.mkdir(parents=True, exist_ok=True)

        return Product(path, make)

    recipe.products = {name: stand_in(name, product.path) for name, product in recipe.products.items()}
    return names


def test_stages_run_once_and_in_order(recipe: Recipe, made: list[str], capsys: pytest.CaptureFixture) -> None:
    recipe.run()
    assert made == list(STAGES)
    recipe.run()
    assert made == list(STAGES)
    assert capsys.readouterr().out.count("skipped") == len(STAGES)


def test_force_and_only_choose(recipe: Recipe, made: list[str]) -> None:
    recipe.run(["reward", "detector"])
    assert made == ["detector", "reward"]
    recipe.run(["reward"], force=True)
    assert made == ["detector", "reward", "reward"]


def test_force_starts_from_nothing(recipe: Recipe, made: list[str]) -> None:
    recipe.run()
    for folder in ("autoencoder", "pairs", "student", "detector", "reward"):
        (recipe.work / folder).mkdir()

    def kept() -> set[str]:
        return {folder.name for folder in recipe.work.iterdir() if folder.is_dir()} - {"export", "redo"}

    recipe.run()
    assert kept() == {"autoencoder", "pairs", "student", "detector", "reward"}
    recipe.run(["reward"], force=True)
    assert kept() == {"autoencoder", "pairs", "student", "detector"}
    recipe.run(["student"], force=True)
    assert kept() == {"autoencoder", "pairs", "detector"}
    (recipe.work / "student").mkdir()
    recipe.run(["autoencoder"], force=True)  # the pairs, and what was learned from them, are of the old one's latents
    assert kept() == {"detector"}


def test_a_forced_run_that_was_interrupted_goes_on(recipe: Recipe, made: list[str]) -> None:
    recipe.run()
    made.clear()
    make = recipe.products["detector"].make

    def interrupted() -> None:
        (recipe.work / "detector").mkdir()
        raise KeyboardInterrupt

    recipe.products["detector"] = Product(recipe.products["detector"].path, interrupted)
    with pytest.raises(KeyboardInterrupt):
        recipe.run(["autoencoder", "detector", "reward"], force=True)
    assert made == ["autoencoder"]
    recipe.products["detector"] = Product(recipe.products["detector"].path, make)
    recipe.run()
    assert made == ["autoencoder", "detector", "reward", "report"]
    assert (recipe.work / "detector").is_dir()
    recipe.run()
    assert made == ["autoencoder", "detector", "reward", "report"]


def test_report_follows_every_change(recipe: Recipe, made: list[str]) -> None:
    recipe.run()
    made.clear()
    recipe.products["detector"].path.rmdir()
    recipe.run()
    assert made == ["detector", "report"]


def test_autoencoder_is_not_trained_again_for_a_finished_pipeline(recipe: Recipe, made: list[str]) -> None:
    recipe.products["student"].path.mkdir(parents=True)
    recipe.run(["autoencoder", "student"])
    assert made == []


def test_work_of_another_length_is_refused(recipe: Recipe) -> None:
    with pytest.raises(ValueError, match="was begun with --scale 0.0005, its checkpoints do not fit --scale 1"):
        Recipe(recipe.work, recipe.out, recipe.prompts)
    Recipe(recipe.work, recipe.out, recipe.prompts, scale=0.0005)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_scale_must_be_positive(scale: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="scale must be a positive number"):
        Recipe(tmp_path, tmp_path, tmp_path, scale)


def options(folder: Path) -> list[str]:
    return ["--work", str(folder / "work"), "--out", str(folder / "out"), "--prompts", str(folder / "prompts")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "teacher"], "invalid choice: 'teacher'"),
        (["--scale", "0"], "scale must be a positive number"),
        (["--only", "student"], "run the stage `autoencoder` first"),
        (["--only", "report"], "run `make miniature`"),
    ],
)
def test_mistakes_end_in_one_clear_line(arguments: list[str], message: str, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "miniature"
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, *options(folder)])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_the_recipe_makes_checkpoints_that_the_classes_load(tmp_path: Path) -> None:
    main(["--scale", "0.0005", "--only", *STAGES[:-1], *options(tmp_path)])
    out = tmp_path / "out"
    generator = DiffusersGenerator(str(out / "pipeline"), strict_vocabulary=True)
    prompts = [json.loads(line)["prompt"] for line in (tmp_path / "prompts" / "test.jsonl").open()][:3]
    noise = generator.sample_noise(3, torch.Generator().manual_seed(0))
    for steps in (1, 2, 4):
        images = generator.generate(noise, generator.encode(prompts), steps)
        assert images.shape == (3, 3, 32, 32) and generator.dtype == torch.float32
    for name in REWARDS:
        assert load_reward(out, name)(images, prompts).shape == (3,)
    assert len(GridDetector.from_pretrained(out / "detector").detect(images)) == 3
    assert "work" not in (out / "pipeline" / "vae" / "config.json").read_text()

    report = write_report(out, per_tag=2, noises=1, flips_of=2)
    assert report == json.loads((out / "report.json").read_text())
    assert report["megabytes"]["total"] < 25
    assert {path.name for path in out.iterdir() if path.is_file()} == {"report.json", "REPORT.md", "samples.png"}

    # Trained stages are loaded, not trained again: the same weights are exported.
    before = (out / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    shutil.rmtree(out / "pipeline")
    main(["--scale", "0.0005", "--only", "student", *options(tmp_path)])
    assert (out / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes() == before
