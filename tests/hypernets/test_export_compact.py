"""f of compact hypernetworks as files, against the hypernetworks, on prompts and batches they were not made with."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hn.cli import main
from hn.generators import PipelineGenerator
from hn.hypernets import Hypernet
from hn.hypernets.conv import ConvHypernet
from hn.hypernets.export import FACTS, export_hypernet
from hn.hypernets.subspace import SubspaceHypernet
from hn.utils.program import ONNX_PACKAGES
from tests.tiny_pipelines import CASES, NETWORKS

MAKE = {
    "conv": lambda: ConvHypernet(width=8, blocks=1, heads=2, grid=4, text_width=12),
    "subspace": lambda: SubspaceHypernet(
        frequencies=2, width=16, layers=1, queries=3, text_width=12, token_frequencies=2
    ),
}
FAMILIES = [
    case if case in ("stable_diffusion", "z_image") else pytest.param(case, marks=pytest.mark.slow) for case in NETWORKS
]
SHAPES = {"noise": [8, 8, 8], "prompt_embeds": [12, 12]}
PROMPTS = ["a red ball", "two blue cube", "a cube left of a ball", "the photo"]


def trained(name: str, generator: PipelineGenerator) -> Hypernet:
    torch.manual_seed(0)
    hypernet = MAKE[name]().build(generator)
    torch.nn.init.normal_(hypernet.out.weight)
    if hypernet.token_shift is not None:
        torch.nn.init.normal_(hypernet.token_shift.table)
    return hypernet


def of_case(case: str, **options) -> PipelineGenerator:
    height, width = CASES[case].size
    return PipelineGenerator(CASES[case].build(), height=height, width=width, family=CASES[case].family, **options)


def inputs(generator: PipelineGenerator, batch_size: int):
    rng = torch.Generator().manual_seed(5)
    return generator.sample_noise(batch_size, rng), generator.encode(PROMPTS[:batch_size])


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("case", FAMILIES)
@torch.no_grad()
def test_f_is_the_same_in_any_batch(name: str, case: str, tmp_path: Path) -> None:
    """Also of families whose backbone reads the conditioning, for f does not run it."""
    generator = of_case(case)
    hypernet = trained(name, generator)
    exported = export_hypernet(hypernet, tmp_path / "f.pt2")
    assert exported.batch_size is None and exported.difference <= 1e-5 * exported.largest
    program = torch.export.load(exported.path).module()
    for batch_size in (1, 4):
        noise, conditioning = inputs(generator, batch_size)
        f = hypernet(noise, conditioning)
        torch.testing.assert_close(program(noise, conditioning), f, atol=1e-5 * exported.largest, rtol=1e-5)
    own = {parameter.numel() for parameter in hypernet.parameters()}
    assert {parameter.numel() for parameter in program.parameters()} <= own  # none of the generator's


@pytest.mark.slow
@pytest.mark.extras(*ONNX_PACKAGES)
@pytest.mark.parametrize("name", MAKE)
@torch.no_grad()
def test_an_onnx_model_has_the_same_f(name: str, tmp_path: Path) -> None:
    import onnxruntime

    generator = of_case("sana").bfloat16()  # f is computed in float32 all the same
    hypernet = trained(name, generator)
    exported = export_hypernet(hypernet, tmp_path / "f.onnx", "onnx")
    assert exported.batch_size is None
    session = onnxruntime.InferenceSession(exported.path)
    for batch_size in (1, 4):
        noise, conditioning = inputs(generator, batch_size)
        named = {"noise": noise, **{f"conditioning_{key}": value for key, value in conditioning.items()}}
        given = {key: value.float() if value.is_floating_point() else value for key, value in named.items()}
        f = torch.from_numpy(session.run(None, {key: value.numpy() for key, value in given.items()})[0])
        torch.testing.assert_close(f, hypernet(noise, conditioning), atol=1e-5 * exported.largest, rtol=1e-4)


@pytest.mark.parametrize("name", MAKE)
def test_the_command_writes_what_was_saved(
    name: str,
    make_generator: Callable[..., PipelineGenerator],
    tiny_pipeline_folder: Path,
    tmp_path: Path,
    capsys,
    refuse,
) -> None:
    generator = make_generator()
    trained(name, generator).save_pretrained(tmp_path / "net")
    options = ["--hypernet", str(tmp_path / "net"), "--generator", str(tiny_pipeline_folder), "--device", "cpu"]
    main(["export", *options, "--output", str(tmp_path / "f.pt2")])
    tokens = {"token_ids": [12]} if name == "subspace" else {}
    said = ", ".join(f"{key} {shape}" for key, shape in {**SHAPES, **tokens}.items())
    assert f"{said}, in batches of 1 to 63" in capsys.readouterr().out
    facts = {FACTS: ""}
    program = torch.export.load(tmp_path / "f.pt2", extra_files=facts).module()
    assert json.loads(facts[FACTS])["inputs"] == {**SHAPES, **tokens}
    loaded = Hypernet.from_pretrained(tmp_path / "net", generator)
    noise, conditioning = inputs(generator, 3)
    torch.testing.assert_close(program(noise, conditioning), loaded(noise, conditioning))
    refused = refuse("export", *options, "--merge", "--output", tmp_path / "merged.pt2")
    assert "is no LoRA hypernetwork, so it cannot be merged" in refused
