"""Exported programs, saved and loaded again, against the hypernetworks they were made of."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hn.cli import main
from hn.generators import Conditioning, PipelineGenerator
from hn.generators.families.stable_diffusion import StableDiffusion
from hn.generators.random_inputs import random_inputs
from hn.hypernets import LoraFinetune, LoraHypernet
from hn.hypernets.export import FACTS, export_hypernet
from hn.utils.program import ONNX_PACKAGES
from tests.tiny_pipelines import CASES, NETWORKS

EXPORTABLE = [name for name in NETWORKS if name not in ("z_image", "qwen_image")]
NO_ONNX = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]


class FixedBatch(StableDiffusion):
    """A family whose code needs to know the batch size, as a number."""

    def call_backbone(self, pipe, backbone, inputs) -> Tensor:
        return torch.cat([super().call_backbone(pipe, backbone, inputs)] * (len(inputs.sample) % 1 + 1))


class Untraceable(StableDiffusion):
    """A family that looks at values."""

    def call_backbone(self, pipe, backbone, inputs) -> Tensor:
        return super().call_backbone(pipe, backbone, inputs) * (1 if inputs.sample.sum() > 0 else 2)


def make_hypernet(generator: PipelineGenerator) -> LoraHypernet:
    hypernet = LoraHypernet(rank=2).build(generator)
    with torch.no_grad():
        for parameter in hypernet.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.05)
    return hypernet


def of_case(name: str, **options) -> LoraHypernet:
    case = CASES[name]
    height, width = case.size
    return make_hypernet(
        PipelineGenerator(case.build(), **{"height": height, "width": width, "family": case.family} | options)
    )


def real_inputs(hypernet: LoraHypernet, prompts: list[str]) -> tuple[Tensor, Conditioning]:
    generator = hypernet.generator
    return generator.sample_noise(len(prompts), torch.Generator().manual_seed(5)), generator.encode(prompts)


@torch.no_grad()
def assert_same(path: Path, hypernet: LoraHypernet, batch_sizes: tuple[int, ...]) -> nn.Module:
    """The file's f is the hypernetwork's, on prompts that it was not made with."""
    program = torch.export.load(path).module()
    for batch_size in batch_sizes:
        inputs = real_inputs(
            hypernet, ["a red ball", "two blue cube", "a cube left of a ball", "the photo"][:batch_size]
        )
        f = hypernet(*inputs)
        assert f.std() > 1e-3
        torch.testing.assert_close(program(*inputs), f, atol=1e-5, rtol=0)
    return program


def check_every_batch(name: str, folder: Path) -> None:
    hypernet = of_case(name)
    exported = export_hypernet(hypernet, folder / "f.pt2")
    assert exported.batch_size is None and exported.inputs["noise"] == hypernet.generator.noise_shape
    assert exported.difference <= 1e-5 < exported.largest
    assert_same(exported.path, hypernet, (1, 4))


@pytest.mark.slow
def test_stable_diffusion_in_any_batch(tmp_path: Path) -> None:
    check_every_batch("stable_diffusion", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["f.pt2"]


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTABLE[1:])
def test_every_family_in_any_batch(name: str, tmp_path: Path) -> None:
    check_every_batch(name, tmp_path)


@pytest.mark.parametrize("name", ["z_image", "qwen_image"])
def test_families_that_read_the_conditioning_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot be exported: its backbone takes prompts cut to their lengths"):
        export_hypernet(of_case(name), tmp_path / "f.pt2")


@pytest.mark.slow
def test_code_that_needs_the_batch_size_gets_one(tmp_path: Path) -> None:
    hypernet = of_case("stable_diffusion", family=FixedBatch())
    exported = export_hypernet(hypernet, tmp_path / "f.pt2")
    assert exported.batch_size == 1
    program = assert_same(exported.path, hypernet, (1,))
    with pytest.raises(AssertionError):
        program(*real_inputs(hypernet, ["a ball", "a cube"]))


@pytest.mark.slow
def test_code_that_cannot_be_traced_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="torch.export cannot trace UNet2DConditionModel: "):
        export_hypernet(of_case("stable_diffusion", family=Untraceable()), tmp_path / "f.pt2")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_program_that_computes_something_else_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hypernet = of_case("stable_diffusion")
    load = torch.export.load

    def damaged(path: Path) -> object:
        program = load(path)
        next(iter(program.state_dict.values())).data.add_(0.1)
        return program

    monkeypatch.setattr(torch.export, "load", damaged)
    with pytest.raises(ValueError, match=r"The exported f differs from f by up to .* is not written"):
        export_hypernet(hypernet, tmp_path / "f.pt2", batch_size=1)
    assert not list(tmp_path.iterdir())


def test_random_inputs_are_like_the_real_ones(generator: PipelineGenerator) -> None:
    noise, conditioning = random_inputs(generator, 3)
    real = generator.encode(["", "", ""])
    assert noise.shape == (3, *generator.noise_shape)
    assert conditioning.keys() == real.keys()
    for name, tensor in conditioning.items():
        assert tensor.shape == real[name].shape and tensor.dtype == real[name].dtype
        if tensor.is_floating_point():  # and not token ids
            torch.testing.assert_close(tensor.std(), real[name].std(), rtol=0.1, atol=0)
        assert not torch.equal(tensor[0], tensor[1])


@pytest.fixture
def folder(generator: PipelineGenerator, tmp_path: Path) -> Path:
    """Of a saved hypernetwork."""
    make_hypernet(generator).save_pretrained(tmp_path / "net")
    return tmp_path / "net"


@pytest.mark.slow
def test_the_command_writes_a_file_that_says_what_it_is_for(
    folder: Path, generator: PipelineGenerator, tiny_pipeline_folder: Path, tmp_path: Path, capsys
) -> None:
    path = tmp_path / "f.pt2"
    options = {"hypernet": folder, "generator": tiny_pipeline_folder, "output": path, "batch_size": 2, "device": "cpu"}
    main(["export", "--merge", *(str(word) for name, value in options.items() for word in (f"--{name}", value))])
    shown = capsys.readouterr().out
    assert str(path) in shown and "noise [8, 8, 8], prompt_embeds [12, 12], in batches of 2 alone" in shown
    assert "f differs by at most " in shown
    assert_same(path, LoraHypernet.from_pretrained(folder, generator), (2,))
    facts = {FACTS: ""}
    program = torch.export.load(path, extra_files=facts)
    saved = json.loads(facts[FACTS])
    assert saved["name"] == str(tiny_pipeline_folder) and saved["inputs"] == {
        "noise": [8, 8, 8],
        "prompt_embeds": [12, 12],
    }
    assert not any("lora" in name for name in program.state_dict)


@pytest.mark.slow
def test_a_generator_that_is_compiled_elsewhere_is_exported_as_it_is(
    folder: Path, tiny_pipeline_folder: Path, tmp_path: Path, monkeypatch
) -> None:
    for user in ("hn.evaluation.generate", "hn.generators.pipeline_generator", "hn.hypernets.merged"):
        monkeypatch.setattr(f"{user}.compile_layers", lambda layers: pytest.fail("compiled"))
    (tmp_path / "x.yaml").write_text(f"pretrained: {tiny_pipeline_folder}\ncompile: true\n")
    options = ("--hypernet", folder, "--generator", tmp_path / "x.yaml", "--output", tmp_path / "f.pt2")
    main(["export", *map(str, options), "--merge", "--batch_size", "1", "--device", "cpu"])
    assert (tmp_path / "f.pt2").is_file()


def test_what_is_wrong_is_said_before_weights_are_loaded(
    folder: Path, generator: PipelineGenerator, tiny_pipeline_folder: Path, tmp_path: Path, refuse, monkeypatch
) -> None:
    monkeypatch.setattr("diffusers.DiffusionPipeline.from_pretrained", lambda *_, **__: pytest.fail("loaded"))

    def refused(*options: object, output: str = "f.pt2", hypernet: Path = folder) -> str:
        models = ("--generator", tiny_pipeline_folder, "--hypernet", hypernet)
        return refuse("export", *models, "--output", tmp_path / output, *options)

    assert "Missing: --generator, --output. Usage: hn export [--hypernet" in refuse("export")
    assert "--formatt: did you mean --format?" in refused("--formatt", "onnx")
    assert "Unknown format 'tf'; choose one of torch, onnx" in refused("--format", "tf")
    assert "must end in .pt2 for the format torch" in refused(output="f.onnx")
    assert "There is no folder" in refused(output="nowhere/f.pt2")
    assert "batch_size must be at least 1, not 0" in refused("--batch_size", "0")
    (tmp_path / "there.pt2").write_text("mine")
    assert "is not written over" in refused(output="there.pt2")
    finetune = LoraFinetune(rank=2).build(generator)
    finetune.save_pretrained(tmp_path / "tune")
    assert "is a fine-tune; hn export writes the f" in refused(hypernet=tmp_path / "tune")
    assert "is no LoRA hypernetwork, so it cannot be merged" in refused("--merge", hypernet=tmp_path / "tune")


@pytest.mark.skipif(not NO_ONNX, reason="ONNX is installed")
def test_missing_packages_for_onnx_are_named(tmp_path: Path) -> None:
    with pytest.raises(ImportError, match=r"ONNX needs onnx.*: pip install 'hn\[onnx\]'"):
        export_hypernet(of_case("stable_diffusion"), tmp_path / "f.onnx", "onnx")


@pytest.mark.slow
@pytest.mark.extras(*ONNX_PACKAGES)
@torch.no_grad()
def test_an_onnx_model_has_the_same_f(tmp_path: Path) -> None:
    import onnxruntime

    hypernet = of_case("stable_diffusion")
    exported = export_hypernet(hypernet, tmp_path / "f.onnx", "onnx")
    assert exported.batch_size is None
    session = onnxruntime.InferenceSession(tmp_path / "f.onnx")
    for prompts in (["a red ball"], ["two cube", "a ball", "the cube"]):
        noise, conditioning = real_inputs(hypernet, prompts)
        inputs = {"noise": noise.numpy(), "conditioning_prompt_embeds": conditioning["prompt_embeds"].numpy()}
        f = torch.from_numpy(session.run(None, inputs)[0])
        torch.testing.assert_close(f, hypernet(noise, conditioning), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="exported in float32, not torch.float16"):
        export_hypernet(make_hypernet(hypernet.generator.half()), tmp_path / "half.onnx", "onnx")
