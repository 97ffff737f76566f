"""The code and the configurations of docs/ do what they say."""

import importlib
import importlib.util
import os
import re
from pathlib import Path

import diffusers
import pytest
import torch
import yaml

from hn.cli import main
from hn.utils.config import read_config
from tests import tiny_pipelines

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
QUICK = {
    "trainer.accelerator": "cpu",
    "trainer.max_steps": 2,
    "trainer.val_check_interval": 2,
    "trainer.log_every_n_steps": 1,
    "model.images_per_prompt": 1,
    "model.warmup_steps": 0,
    "data.init_args.batch_size": 2,
    "data.init_args.eval_batch_size": 2,
    "data.init_args.limit_val": 2,
    "data.init_args.limit_test": 2,
    "callbacks.suite": "null",
    "callbacks.images": "null",
    "callbacks.evaluation.init_args.noise_diagnostics": "null",
    "run.name": "quick",
}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def quick() -> list[str]:
    """Options that shorten a command to seconds."""
    return [f"--{name}={value}" for name, value in QUICK.items()]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the data and experiments of the repository, in which files may be written."""
    for name in ("data", "experiments"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def mine(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder `mine` with all files of your_own.md, in the working directory, which is on the path."""
    for language in ("python", "yaml"):
        for text in blocks(DOCS / "your_own.md", language):
            file = checkout / text.splitlines()[0].removeprefix("# ")
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
    monkeypatch.syspath_prepend(checkout)
    return checkout / "mine"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_class_paths_and_files_that_a_page_names_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in {*re.findall(r"\bhn(?:\.[a-z_0-9]\w*)+(?:\.[A-Z]\w*)?(?:\.\w+)*", text)}:
        assert is_importable(name), f"{page.name} names {name}"
    for file in {*re.findall(r"(?<![\w/.<])(?:experiments|hn|tests|data|benchmarks)/[\w./]*[\w/]", text)}:
        if not re.fullmatch(r"experiments/(studies/)?(X|NAME)\.yaml", file):
            assert (ROOT / file).exists(), f"{page.name} names {file}"


def is_importable(path: str) -> bool:
    """Whether a module, or something in one, has this name."""
    module, _, rest = path.partition(".")
    found = importlib.import_module(module)
    for name in filter(None, rest.split(".")):
        module += f".{name}"
        if not hasattr(found, name) and importlib.util.find_spec(module) is None:
            return False
        found = getattr(found, name, None) or importlib.import_module(module)
    return True


def test_commands_md_lists_the_targets_of_the_makefile() -> None:
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    listed = (DOCS / "commands.md").read_text().partition("lists its targets:")[2]
    assert re.findall(r"`([a-z-]+)`", listed) == [name for name in targets if name != "help"]


@pytest.mark.usefixtures("checkout")
def test_the_blocks_of_hypernets_md_run() -> None:
    names: dict = {}
    for block in blocks(DOCS / "hypernets.md", "python"):
        exec(compile(block, "hypernets.md", "exec"), names)
    assert names["images"].shape == names["weaker"].shape == (2, 3, 32, 32)
    assert not torch.equal(names["images"], names["weaker"])


def test_python_md_trains_makes_images_and_loads(checkout: Path) -> None:
    names: dict = {}
    for block in blocks(DOCS / "python.md", "python"):
        exec(compile(block, "python.md", "exec"), names)
    assert names["trainer"].global_step == 5
    assert names["base"].shape == (4, 3, 32, 32) and not torch.equal(names["base"], names["better"])
    assert (checkout / "runs" / "python" / "stars.png").is_file()
    assert names["result"].rewards.shape == (1,) and names["result"].nfe.tolist() == [8]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sharpness", "conv", "norms"])
def test_an_experiment_of_your_own_trains(mine: Path, quick: list[str], name: str) -> None:
    assert f"hn train --config mine/{name}.yaml\n" in "".join(blocks(DOCS / "your_own.md", "bash"))
    main(["train", "--config", f"mine/{name}.yaml", *quick])
    run = mine.parent / "runs" / name / "quick"
    saved = yaml.safe_load((run / "config.yaml").read_text())
    events = b"".join(file.read_bytes() for file in run.glob("*tfevents*"))
    rewards = saved["model"]["reward"]["init_args"]
    assert rewards["rewards"].keys() == rewards["weights"].keys()
    assert rewards["weights"] == (
        {"redness": 0.0, "sharpness": 5.0} if name == "sharpness" else {"clip": 1, "redness": 0}
    )
    assert (b"train/reward_sharpness" in events) == (name == "sharpness")
    assert (b"train/gradient_norm" in events) == (name == "norms")
    assert (saved["callbacks"].get("collapse") is None) == (name == "norms")
    if name == "conv":
        assert saved["model"]["hypernet"]["init_args"] == {"width": 64}
        main(["generate", "--config", "mine/conv.yaml", "--prompt", "a photo of three stars", "--count", "1"])
        assert [*(mine.parent / "runs" / "conv").glob("generate_*/0000_hypernetwork.png")]


@pytest.mark.slow
def test_a_search_of_your_own_is_compared(mine: Path, quick: list[str], capsys: pytest.CaptureFixture) -> None:
    (command,) = re.findall(r"^hn (compare .*)$", "".join(blocks(DOCS / "your_own.md", "bash")), re.MULTILINE)
    main([*command.split(), *quick])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    table = {row[0]: row for row in rows if row and row[0] in ("base", "hypernetwork", "best_of_8", "hill_climb_20")}
    assert len(table) == 4
    searches = read_config("mine/climb.yaml")["comparison"]["searches"]
    assert [name for name, search in searches.items() if search] == ["best_of_8", "hill_climb_20"]


def test_a_family_of_your_own_makes_the_images_of_its_pipeline(mine: Path) -> None:
    alpha = tiny_pipelines.pixart()
    diffusers.PixArtSigmaPipeline(**alpha.components).save_pretrained("tiny")
    file = mine / "generator.yaml"
    file.write_text(re.sub("pretrained: .*", "pretrained: tiny", file.read_text()))
    command = ["generate", "--generator", "mine/generator.yaml", "--prompt", "a red ball", "--output", "out"]
    main([*command, "--count", "1", "--device", "cpu"])
    assert os.listdir("out") and (Path("out") / "0000_base.png").is_file()

    from mine.family import PixArtSigma  # what the command has imported

    from hn.generators import DiffusersGenerator
    from hn.hypernets import LoraHypernet

    stock = diffusers.PixArtSigmaPipeline.from_pretrained("tiny")
    generator = DiffusersGenerator("tiny", family=PixArtSigma(), steps=2)
    noise, conditioning = generator.sample_noise(2), generator.encode(["a red ball", "two blue cube"])
    with torch.no_grad():
        own = generator.generate(noise, conditioning, rng=torch.Generator().manual_seed(1))
        expected = stock(
            ["a red ball", "two blue cube"],
            latents=noise,
            num_inference_steps=2,
            guidance_scale=1.0,
            use_resolution_binning=False,
            height=generator.height,
            width=generator.width,
            generator=torch.Generator().manual_seed(1),
            output_type="pt",
        ).images
        torch.testing.assert_close(own, expected)
        hypernet = LoraHypernet(rank=2).build(generator)
        assert not hypernet(noise, conditioning).any()
