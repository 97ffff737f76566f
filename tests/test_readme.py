"""The README's code does what it says."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hn.cli import main
from hn.cli.generate import generate_parser
from hn.cli.parsing import with_flag_values
from hn.cli.score import BENCHMARKS, GENEVAL
from hn.generators.noise import prompt_noise
from hn.hypernets.lora import LORA_ONLY, LoraHypernet
from hn.rewards.named import SHORT_NAMES
from hn.utils.config import read_config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def in_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.usefixtures("in_root")
def test_the_python_lines_make_the_image_of_the_hypernetwork() -> None:
    (code,) = blocks("python")
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    generator, prompt = names["hypernet"].generator, names["prompt"]
    assert names["image"].size == (32, 32)
    with torch.no_grad():
        own = generator.generate(names["latents"], generator.encode([prompt]), 1)[0]
    difference = np.asarray(names["image"], dtype=int) - (own * 255).round().permute(1, 2, 0).numpy()
    assert np.abs(difference).max() <= 1  # the pipeline's weights take gradients: another kernel, another rounding
    noise = prompt_noise(generator, [0], seed=0)
    base = names["pipe"](prompt, latents=noise, num_inference_steps=1, guidance_scale=0.0).images[0]
    assert np.abs(np.asarray(names["image"], dtype=int) - np.asarray(base)).max() > 8


def test_the_score_commands_name_metrics_that_there_are() -> None:
    docs = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md"))
    given = [words for words in re.findall(r"hn score --metrics (\S+) [^\sN]", README + docs) if words != "..."]
    assert len(given) >= 3
    known = {*SHORT_NAMES, *BENCHMARKS, GENEVAL}
    for words in given:
        assert all(word in known or (ROOT / word).is_file() for word in words.strip("`").split(",")), words
    assert all(f"`{name}`" in docs for name in SHORT_NAMES)


@pytest.mark.usefixtures("in_root")
def test_the_generate_command_writes_its_images(tmp_path: Path) -> None:
    (command,) = re.findall(
        r"^hn (generate --generator data/.*?)\s+#", "\n".join(blocks("bash")), re.DOTALL | re.MULTILINE
    )
    words = [word.strip('"') for word in re.findall(r'"[^"]*"|[^\s\\]+', command)]
    assert "a photo of three stars" in words
    main([*words, "--output", str(tmp_path / "out")])
    names = {f"{number:04d}_{method}.png" for number in range(4) for method in ("base", "hypernetwork")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*names, "metadata.json", "overview.png"}
    assert Image.open(tmp_path / "out" / "0000_base.png").text["prompt"] == "a photo of three stars"


def test_the_published_adapter_s_command_is_one() -> None:
    """Without the weights: its options exist, and its names are those of the fragment and the docstrings."""
    commands = re.findall(r"^hn (generate --generator [^d].*)", "\n".join(blocks("bash")), re.DOTALL | re.MULTILINE)
    (command,) = [command.split("\n\n")[0] for command in commands]
    words = [word.strip('"') for word in re.findall(r'"[^"]*"|[^\s\\]+', command)]
    options = generate_parser().parse_args(with_flag_values(words[1:], ("--compare", "--merge")))
    fragment = read_config(ROOT / "experiments" / "shared" / "generators" / "sana.yaml")
    assert options.generator == fragment["model"]["generator"]["init_args"]["pretrained"]
    assert options.hypernet in LoraHypernet.from_published.__doc__
    assert (options.last_layer_rule, options.dtype, options.compare) == (LORA_ONLY, "bfloat16", True)


def test_links_of_readme_and_docs_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            if target.startswith("http"):
                continue
            name, _, anchor = target.partition("#")
            linked = page.parent / name if name else page
            assert linked.exists(), f"{page.name} links to {target}"
            assert not anchor or anchor in anchors(linked), f"{page.name} links to {target}"


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_experiment_is_listed_with_the_gpu_it_was_planned_for() -> None:
    section = (ROOT / "docs" / "experiments.md").read_text()
    files = {file.stem: file.read_text() for file in (ROOT / "experiments").glob("*.yaml")}
    table = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("| `") and "EXP" not in line]
    listed = {name: row[3].strip() for row in table for name in re.findall(r"`(\w+)`", row[0])}
    finetunes = {name for name in files if name.endswith("_finetune")}
    assert listed.keys() == files.keys() - finetunes
    assert finetunes <= {*re.findall(r"`(\w+)`", section)}
    for name, planned in listed.items():
        memory = re.search(r"Planned for one GPU of (\d+) GB", files[name])
        without = "one GPU, memory not counted yet" if "not run at full size yet" in files[name] else "2 CPU cores"
        assert planned == f"one GPU of {memory[1]} GB" if memory else planned.startswith(without)
