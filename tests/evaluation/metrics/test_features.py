"""Extractors with random weights in the published layouts."""

import shutil
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from huggingface_hub import constants
from safetensors.torch import load_file
from torchmetrics.functional.image import learned_perceptual_image_patch_similarity
from torchmetrics.image.fid import FrechetInceptionDistance

from hn.evaluation.metrics import features
from hn.evaluation.metrics.features import InceptionFeatures, LpipsDistance, TimmFeatures
from hn.evaluation.scorer import distances_within_prompts
from hn.utils.hub import repositories_in


@pytest.fixture(scope="module")
def tiny_dino(tmp_path_factory) -> Path:
    """A Vision Transformer of DINOv2's class with its files as the Hub has them."""
    folder = tmp_path_factory.mktemp("dino")
    options = {"img_size": 28, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 0, "init_values": 1e-5}
    model = timm.create_model("vit_small_patch14_dinov2", **options)
    timm.models.save_for_hf(model, folder, model_args=options, safe_serialization=True)
    return folder


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 3, 40, 32)


def test_timm_features_are_those_of_the_model(tiny_dino, images):
    extractor = TimmFeatures(str(tiny_dino), size=28)
    found = extractor.image_features(images)
    model = timm.create_model(
        "vit_small_patch14_dinov2", img_size=28, embed_dim=16, depth=2, num_heads=2, num_classes=0
    )
    model.load_state_dict(load_file(tiny_dino / "model.safetensors"))
    resized = torch.nn.functional.interpolate(images, (35, 28), mode="bicubic", antialias=True)[:, :, 4:32]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        expected = model.eval()((resized - mean) / std)
    torch.testing.assert_close(found, expected)
    assert found.shape == (3, 16) and not found.requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(extractor.image_features(images), found)


def test_weights_of_timm_are_looked_for_first(tmp_path, monkeypatch):
    section = {
        "class_path": "hn.evaluation.metrics.features.TimmFeatures",
        "init_args": {"pretrained": "timm/some_vit"},
    }
    (wanted,) = repositories_in({"callbacks": {"evaluation": {"init_args": {"features": {"dino": section}}}}})
    assert wanted.name == "timm/some_vit" and "model.safetensors" in wanted.command
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="timm/some_vit"):
        TimmFeatures("timm/some_vit")
    with pytest.raises(FileNotFoundError, match="config.json"):
        TimmFeatures(str(tmp_path))


def test_a_model_that_timm_does_not_know_is_named(tiny_dino, tmp_path):
    shutil.copytree(tiny_dino, tmp_path / "other")
    config = tmp_path / "other" / "config.json"
    config.write_text(config.read_text().replace("vit_small_patch14_dinov2", "vit_unheard_of"))
    with pytest.raises(ValueError, match="other cannot be loaded with timm .*vit_unheard_of"):
        TimmFeatures(str(tmp_path / "other"))


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory) -> Path:
    """A cache of torch.hub with SqueezeNet's file, of random weights."""
    folder = tmp_path_factory.mktemp("hub") / "checkpoints"
    folder.mkdir()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = torchvision.models.squeezenet1_1(weights=None).state_dict()
    torch.save(weights, folder / "squeezenet1_1-b8a52dc0.pth")
    return folder.parent


def test_lpips_is_that_of_torchmetrics(squeezenet, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(squeezenet))
    first, second = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
    distance = LpipsDistance("squeeze")
    found = distance.image_distance(first, second)
    options = {"net_type": "squeeze", "normalize": True, "reduction": "none"}
    torch.testing.assert_close(found, learned_perceptual_image_patch_similarity(first, second, **options))
    assert found.shape == (2,) and (found > 0).all()
    assert distance.image_distance(first[:1], second[:1]).shape == (1,)


def test_missing_weights_of_lpips_are_named(tmp_path, monkeypatch):
    def refused(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refused)
    with pytest.raises(FileNotFoundError, match=r"no network.*squeezenet1_1-b8a52dc0\.pth into .*checkpoints"):
        LpipsDistance("squeeze")
    with pytest.raises(ValueError, match="Unknown network 'resnet'; choose one of alex, squeeze, vgg"):
        LpipsDistance("resnet")


class Difference:
    """The difference of mean brightness."""

    def image_distance(self, first, second):
        assert len(first) <= 16
        return (first.mean(dim=(1, 2, 3)) - second.mean(dim=(1, 2, 3))).abs()


def test_images_are_compared_within_their_prompt():
    values = torch.tensor([0.0, 1.0, 0.5, 0.25, 0.75, *torch.linspace(0, 1, 8)])
    images = values.view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    found = distances_within_prompts(Difference(), images, ["a", "a", "a", "b", "c", *["d"] * 8])
    torch.testing.assert_close(found[:3], torch.tensor([0.75, 0.75, 0.5]))
    assert found[3:5].isnan().all()
    last = values[5:]
    torch.testing.assert_close(found[5:], (last[:, None] - last).abs().sum(dim=1) / 7)


def test_inception_says_what_it_needs(monkeypatch, tmp_path):
    monkeypatch.setattr(features, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"hn\[fid\]"):
        InceptionFeatures()
    section = {"class_path": "hn.evaluation.metrics.features.InceptionFeatures", "init_args": {}}
    with pytest.raises(ImportError, match=r"hn\[fid\]"):
        list(repositories_in(section))


@pytest.mark.extras("torch_fidelity")
def test_files_that_are_not_of_inception_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        InceptionFeatures(str(tmp_path / "missing.pth"))
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="does not hold the weights of FID's Inception"):
        InceptionFeatures(str(tmp_path / "other.pth"))


@pytest.mark.extras("torch_fidelity")
def test_inception_features_are_those_of_torchmetrics(tmp_path):
    # Of the same layout; torch-fidelity's has 1008 classes and no second head.
    twin = torchvision.models.inception_v3(weights=None, num_classes=1008, init_weights=False)
    weights = {name: tensor for name, tensor in twin.state_dict().items() if not name.startswith("AuxLogits")}
    torch.save(weights, tmp_path / "inception.pth")
    images = (torch.rand(2, 3, 32, 32) * 255).round() / 255
    found = InceptionFeatures(str(tmp_path / "inception.pth")).image_features(images)
    network = FrechetInceptionDistance(2048, feature_extractor_weights_path=str(tmp_path / "inception.pth")).inception
    with torch.no_grad():
        expected = network((images * 255).round().to(torch.uint8))
    assert found.shape == (2, 2048) and not torch.equal(found[0], found[1])
    torch.testing.assert_close(found, expected)
