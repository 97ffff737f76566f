"""Model cards of hypernetworks: what f is made of, and code that loads it."""

from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard

from hn.cli import main
from hn.generators import DiffusersGenerator, Generator
from hn.hypernets import Hypernet, LoraHypernet
from hn.hypernets.conv import ConvHypernet
from hn.hypernets.saving import model_card
from hn.hypernets.subspace import SubspaceHypernet
from tests.function_generator import FunctionGenerator

COMPACT = {
    "ConvHypernet": lambda: ConvHypernet(width=8, blocks=1, heads=2, grid=4, text_width=12),
    "SubspaceHypernet": lambda: SubspaceHypernet(frequencies=2, width=16, layers=1, queries=2, text_width=12),
}


def card_of(folder: Path) -> str:
    return ModelCard.load(folder / "README.md").text


def code_of(card: str) -> str:
    return card.split("```python\n")[1].split("```")[0]


def parameters_of(hypernet: Hypernet) -> int:
    return sum(parameter.numel() for parameter in hypernet.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("name", COMPACT)
def test_a_compact_hypernetwork_is_described_and_loaded(
    name: str, generator: DiffusersGenerator, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    hypernet = COMPACT[name]().build(generator)
    torch.nn.init.normal_(hypernet.out.weight)
    hypernet.save_pretrained(tmp_path / "net")
    card, count = card_of(tmp_path / "net"), parameters_of(hypernet)
    assert f"f is a `{name}` of {count:,} parameters ({4 * count / 1e6:.3g} MB)" in card
    assert "needs no pass of the backbone" in card and "Last layer" not in card
    names: dict = {}
    exec(compile(code_of(card), "card", "exec"), names)
    torch.testing.assert_close(names["latents"], hypernet.latents("a prompt", seed=0))
    options = ["--hypernet", str(tmp_path / "net"), "--prompt", "a red ball", "--count", "1", "--device", "cpu"]
    assert f"`hn generate --generator {generator.name} --hypernet {tmp_path / 'net'} --prompt" in card
    main(["generate", "--generator", generator.name, *options, "--compare", "--output", str(tmp_path / "images")])
    pictures = {path.name for path in (tmp_path / "images").glob("*.png")}
    assert pictures == {"0000_base.png", "0000_hypernetwork.png", "overview.png"}
    assert str(tmp_path / "images") in capsys.readouterr().out


def test_a_lora_says_its_size_and_its_pass(generator: DiffusersGenerator, tmp_path: Path) -> None:
    hypernet = LoraHypernet(rank=2).build(generator)
    hypernet.save_pretrained(tmp_path)
    card, count = card_of(tmp_path), parameters_of(hypernet)
    assert f"f has {count:,} parameters ({4 * count / 1e6:.3g} MB) and takes one pass of a backbone" in card
    assert "what a stock diffusers pipeline" in card and "## Last layer" in card


@pytest.mark.parametrize(
    ("path", "made", "is_commanded"),
    [
        ("hn.generators.onnx.OnnxGenerator", 'OnnxGenerator("function")', True),
        ("tests.function_generator.FunctionGenerator", "FunctionGenerator(...)", False),
    ],
)
def test_generators_of_other_classes_are_loaded_by_theirs(
    path: str, made: str, is_commanded: bool, generator: Generator
) -> None:
    hypernet = COMPACT["ConvHypernet"]().build(FunctionGenerator(generator))
    config = hypernet._config()
    assert config["generator"]["class"] == "tests.function_generator.FunctionGenerator"
    config["generator"]["class"] = path
    card = model_card(config, "me/mine")
    module, _, name = path.rpartition(".")
    assert f"from {module} import {name}\n" in card and f"generator = {made}" in card
    compile(code_of(card), "card", "exec")
    assert "stock diffusers pipeline" not in card and ("hn generate" in card) == is_commanded
