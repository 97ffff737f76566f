"""The committed miniature, exported and run by ONNX Runtime, against the pipeline that it was made of."""

import copy
import importlib.util
import json
import pickle
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from hn.cli import main
from hn.generators import DiffusersGenerator, PipelineGenerator
from hn.generators.onnx import FACTS_FILE, OnnxGenerator
from hn.generators.onnx_export import export_generator, require_exportable_generator
from hn.generators.subspaces import LowFrequency
from hn.hypernets import Hypernet, LoraHypernet
from hn.hypernets.conv import ConvHypernet
from hn.rewards import ClipReward, RewardEnsemble
from hn.training.estimators import ScoreFunction
from hn.training.module import NoiseHypernetModule
from hn.utils.program import ONNX_PACKAGES
from tests.tiny_pipelines import CASES

ROOT = Path(__file__).parents[2]
MINIATURE = ROOT / "data" / "miniature"
PROMPTS = ["a photo of a heart", "a photo of two stars", "a photo of a green ring"]
MISSING = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature, exported once by the command."""
    folder = tmp_path_factory.mktemp("exported") / "miniature"
    main(["export", "--generator", str(MINIATURE / "pipeline"), "--output", str(folder), "--device", "cpu"])
    return folder


@pytest.fixture(scope="module")
def pipeline() -> DiffusersGenerator:
    return DiffusersGenerator(str(MINIATURE / "pipeline"))


def noise_of(generator, count: int) -> Tensor:
    return generator.sample_noise(count, torch.Generator().manual_seed(3))


@pytest.mark.extras(*ONNX_PACKAGES)
@pytest.mark.slow
def test_images_are_those_of_the_pipeline(folder: Path, pipeline: DiffusersGenerator) -> None:
    exported = OnnxGenerator(str(folder), strict_vocabulary=True)
    facts = ("noise_shape", "spatial_shape", "steps", "text_width", "dtype", "device", "backbone_class")
    assert all(getattr(exported, name) == getattr(pipeline, name) for name in facts)
    assert exported.digest() == pipeline.digest() and not exported.has_backbone
    assert torch.equal(noise_of(exported, 3), noise_of(pipeline, 3))
    for prompts in (PROMPTS[:1], PROMPTS, PROMPTS * 22):  # 66: more than the model takes at once
        conditioning, noise = pipeline.encode(prompts), noise_of(pipeline, len(prompts))
        encoded = exported.encode(prompts)
        torch.testing.assert_close(encoded, conditioning, atol=1e-4, rtol=0)
        images = exported.generate(noise, encoded)
        with torch.no_grad():
            torch.testing.assert_close(images, pipeline.generate(noise, conditioning), atol=1e-4, rtol=0)
    for copied in (copy.deepcopy(exported), pickle.loads(pickle.dumps(exported))):
        assert torch.equal(copied.generate(noise[:2], copied.encode(prompts[:2])), images[:2])
    with pytest.raises(ValueError, match="was exported with steps 1 and takes no others, not 2"):
        exported.generate(noise, encoded, steps=2)
    with pytest.raises(ValueError, match=r"noise must have shape \[B, 8, 8, 8\], not \[2, 4, 8, 8\]"):
        exported.generate(torch.zeros(2, 4, 8, 8), encoded)
    with pytest.raises(ValueError, match="'elephant'"):
        exported.encode(["a photo of an elephant"])


@pytest.mark.extras(*ONNX_PACKAGES)
@pytest.mark.slow
def test_an_update_on_it_is_one_on_the_pipeline(folder: Path, pipeline: DiffusersGenerator) -> None:
    batch = {"prompt": PROMPTS, "metadata": [{"prompt": text} for text in PROMPTS], "index": torch.arange(3)}
    updates = []
    for generator in (pipeline, OnnxGenerator(str(folder))):
        reward = RewardEnsemble({"clip": ClipReward(str(MINIATURE / "clip"), scale="cosine")}, {"clip": 1.0})
        network = ConvHypernet(width=16, blocks=1, grid=8, text_width=16)
        estimator = ScoreFunction(LowFrequency(4), samples=4)
        module = NoiseHypernetModule(generator, network, reward, estimator=estimator, reward_weight=10.0)
        torch.nn.init.normal_(network.out.weight, std=0.05, generator=torch.Generator().manual_seed(1))
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        module.training_step(batch, 0).backward()
        before = [parameter.detach().clone() for parameter in network.parameters()]
        optimizer.step()
        updates.append([after.detach() - each for after, each in zip(network.parameters(), before, strict=True)])
    for own, found in zip(*updates, strict=True):
        assert own.norm() > 0
        assert (found - own).norm() < 1e-3 * own.norm()


@pytest.mark.extras(*ONNX_PACKAGES)
@pytest.mark.slow
def test_an_experiment_names_it(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuse) -> None:
    monkeypatch.chdir(tmp_path)
    model = {
        "generator": {"class_path": "hn.generators.onnx.OnnxGenerator", "init_args": {"folder": str(folder)}},
        "hypernet": {"class_path": "hn.hypernets.conv.ConvHypernet", "init_args": {"width": 16, "blocks": 1}},
        "estimator": {
            "class_path": "hn.training.estimators.ScoreFunction",
            "init_args": {"subspace": {"class_path": "hn.generators.subspaces.LowFrequency"}, "samples": 2},
        },
        "images_per_prompt": 1,
    }
    experiment = {
        "extends": "experiments/miniature.yaml",
        "model": model,
        "data": {"init_args": {"batch_size": 4, "eval_batch_size": 4, "limit_val": 4, "limit_test": 4}},
        "trainer": {"accelerator": "cpu", "max_steps": 2, "val_check_interval": 2, "log_every_n_steps": 1},
        "callbacks": {"suite": None, "images": None, "evaluation": {"init_args": {"noise_diagnostics": None}}},
    }
    Path("exported.yaml").write_text(yaml.safe_dump(experiment))
    main(["train", "--config", "exported.yaml", "--run.name", "one"])
    run = tmp_path / "runs" / "exported" / "one"
    assert "OnnxGenerator" in (run / "config.yaml").read_text()
    saved = json.loads((run / "hypernet" / "hypernet_config.json").read_text())
    assert saved["generator"]["name"] == str(folder)
    moved = Hypernet.from_pretrained(run / "hypernet", OnnxGenerator(str(folder))).out.weight.detach()
    assert moved.count_nonzero() > 0

    # What was trained on the exported pipeline serves the pipeline too: the digests of the weights agree.
    for number, generator in enumerate((folder, MINIATURE / "pipeline")):
        options = ["--generator", str(generator), "--hypernet", str(run / "hypernet"), "--compare"]
        options += ["--prompt", PROMPTS[0], "--count", "2", "--device", "cpu", "--output", f"images_{number}"]
        main(["generate", *options])
    made = [json.loads((tmp_path / f"images_{number}" / "metadata.json").read_text()) for number in (0, 1)]
    assert [len(each["images"]) for each in made] == [4, 4]
    assert {image["nfe"] for image in made[0]["images"]} == {1}

    refused = refuse("train", "--config", "exported.yaml", "--model.estimator", "null", silent=False)
    assert "OnnxGenerator gives no gradients" in refused


@pytest.mark.extras(*ONNX_PACKAGES)
@pytest.mark.slow
def test_folders_that_do_not_fit_are_refused(folder: Path, tmp_path: Path, refuse) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no generator.json, generator.onnx, .* hn export --generator"):
        OnnxGenerator(str(tmp_path))
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / FACTS_FILE).unlink()
    facts = json.loads((folder / FACTS_FILE).read_text())
    (tmp_path / FACTS_FILE).write_text(json.dumps({**facts, "noise_shape": [4, 8, 8]}))
    with pytest.raises(ValueError, match=r"takes noise \[8, 8, 8\], but generator.json says \[4, 8, 8\]"):
        OnnxGenerator(str(tmp_path))
    (tmp_path / FACTS_FILE).write_text(json.dumps({"noise_shape": [8, 8, 8]}))
    with pytest.raises(ValueError, match="does not say steps, text_width, max_tokens, max_batch"):
        OnnxGenerator(str(tmp_path))
    (tmp_path / FACTS_FILE).write_text(json.dumps(facts))
    (tmp_path / "text_encoder.onnx").unlink()
    (tmp_path / "text_encoder.onnx").write_text("no model")
    with pytest.raises(ValueError, match="ONNX Runtime cannot read"):
        OnnxGenerator(str(tmp_path))
    with pytest.raises(ValueError, match="OnnxGenerator has no backbone, on whose layers LoRA works"):
        LoraHypernet(rank=2).build(OnnxGenerator(str(folder)))
    with pytest.raises(ValueError, match="exists already and is not overwritten"):
        export_generator(DiffusersGenerator(str(MINIATURE / "pipeline")), folder)


@pytest.mark.extras(*ONNX_PACKAGES)
@pytest.mark.parametrize("name", ["flux", "z_image", "stable_diffusion_xl"])
def test_pipelines_of_several_text_encoders_are_refused(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    generator = PipelineGenerator(case.build(), height=case.size[0], width=case.size[1], family=case.family)
    with pytest.raises(ValueError, match=f"A {type(generator.pipe).__name__} cannot be exported: only pipelines with"):
        require_exportable_generator(generator, tmp_path / "new")


@pytest.mark.extras(*ONNX_PACKAGES)
def test_half_precision_is_refused(make_generator, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"exported in float32, not torch.bfloat16: give dtype float32"):
        require_exportable_generator(make_generator(dtype="bfloat16"), tmp_path / "new")


def test_options_of_f_are_not_for_a_generator(refuse, tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    options = ("--generator", tiny_pipeline_folder, "--output", tmp_path / "new")
    assert "--merge, --batch_size needs --hypernet" in refuse("export", *options, "--merge", "--batch_size", 2)
    assert "in the format onnx, not torch; f needs --hypernet" in refuse("export", *options, "--format", "torch")
    if MISSING:
        assert "ONNX needs onnx" in refuse("export", *options)
