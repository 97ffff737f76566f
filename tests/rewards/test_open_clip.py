import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from hn.rewards import OpenClipReward
from hn.rewards.open_clip import build_model, read_architecture
from tests import tiny_rewards
from tests.exactness import assert_close_to_rounding

PROMPTS = ["a red cube", "Two blue  BALLS, please!", "a photo of the green ball " * 40]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Where the tiny config and weights lie, as OpenClipReward's arguments."""
    folder = tmp_path_factory.mktemp("open_clip")
    tiny_rewards.hpsv2(folder)
    return {"architecture": str(folder / "tiny.json"), "pretrained": str(folder / "HPS_v2.1_compressed.pt")}


def transformers_model(weights: dict[str, Tensor]) -> CLIPModel:
    """The same network in transformers' layout, as its conversion of OpenCLIP's checkpoints has it."""
    size = {"hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**size, "hidden_act": "gelu", "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 0},
        vision_config={**size, "hidden_act": "gelu", "image_size": 32, "patch_size": 8},
        projection_dim=12,
    )
    out = {
        "logit_scale": weights["logit_scale"],
        "visual_projection.weight": weights["visual.proj"].T,
        "text_projection.weight": weights["text_projection"].T,
        "vision_model.embeddings.class_embedding": weights["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": weights["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": weights["visual.positional_embedding"],
        "text_model.embeddings.token_embedding.weight": weights["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": weights["positional_embedding"],
    }
    norms = {
        "vision_model.pre_layrnorm": "visual.ln_pre",
        "vision_model.post_layernorm": "visual.ln_post",
        "text_model.final_layer_norm": "ln_final",
    }
    for tower, blocks in (("vision_model", "visual.transformer.resblocks"), ("text_model", "transformer.resblocks")):
        for i in range(2):
            layer, block = f"{tower}.encoder.layers.{i}", f"{blocks}.{i}"
            norms |= {f"{layer}.layer_norm1": f"{block}.ln_1", f"{layer}.layer_norm2": f"{block}.ln_2"}
            norms |= {f"{layer}.mlp.fc1": f"{block}.mlp.c_fc", f"{layer}.mlp.fc2": f"{block}.mlp.c_proj"}
            norms[f"{layer}.self_attn.out_proj"] = f"{block}.attn.out_proj"
            for kind in ("weight", "bias"):
                parts = weights[f"{block}.attn.in_proj_{kind}"].chunk(3)
                out |= {f"{layer}.self_attn.{k}_proj.{kind}": part for k, part in zip("qkv", parts, strict=True)}
    out |= {f"{own}.{kind}": weights[f"{name}.{kind}"] for own, name in norms.items() for kind in ("weight", "bias")}
    model = CLIPModel(config).eval()
    model.load_state_dict(out)
    return model


def test_scores_are_those_of_the_same_network_in_transformers(files: dict[str, str]) -> None:
    reward = OpenClipReward(**files)
    model = transformers_model(reward.model.state_dict())
    images = torch.rand(3, 3, 32, 32)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    tokens = open_clip.tokenize(PROMPTS)
    assert tokens.shape == (3, 77) and tokens[2, -1] == 49407  # cut to the window, with its end
    with torch.no_grad():
        image = model.get_image_features(pixel_values=(images - mean) / std).pooler_output
        text = model.get_text_features(input_ids=tokens).pooler_output
    torch.testing.assert_close(reward.image_features(images), image, rtol=1e-4, atol=1e-5)
    expected = torch.cosine_similarity(image, text) * model.logit_scale.exp()
    torch.testing.assert_close(reward(images, PROMPTS), expected.detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.exact
def test_is_the_model_that_open_clip_builds(files: dict[str, str]) -> None:
    """Without random weights and on the meta device, but with everything in its place."""
    own = OpenClipReward(**files).model
    usual = open_clip.CLIP(**tiny_rewards.OPEN_CLIP).eval().requires_grad_(False)  # or other kernels run
    usual.load_state_dict(torch.load(files["pretrained"], weights_only=True)["state_dict"])
    buffers = dict(usual.named_buffers())
    assert buffers.keys() == dict(own.named_buffers()).keys() == {"attn_mask"}
    assert torch.equal(own.attn_mask, usual.attn_mask)
    pixels, tokens = torch.rand(2, 3, 32, 32), open_clip.tokenize(PROMPTS)
    with torch.no_grad():
        assert torch.equal(own.encode_image(pixels), usual.encode_image(pixels))
        assert torch.equal(own.encode_text(tokens), usual.encode_text(tokens))


def test_scales_are_multiples_of_the_cosine(files: dict[str, str]) -> None:
    images = torch.rand(3, 3, 40, 32)
    logit, percent, cosine = (
        OpenClipReward(**files, scale=scale)(images, PROMPTS) for scale in ("logit", "percent", "cosine")
    )
    torch.testing.assert_close(logit, cosine / 0.07)
    torch.testing.assert_close(percent, logit / 100)
    assert [OpenClipReward(**files, scale=s).published_weight for s in ("logit", "percent", "cosine")] == [
        0.01,
        1,
        None,
    ]


def test_a_folder_and_names_of_distributed_training(files: dict[str, str], tmp_path: Path) -> None:
    weights = torch.load(files["pretrained"], weights_only=True)["state_dict"]
    prefixed = {f"module.{name}": tensor for name, tensor in weights.items()}
    save_file(prefixed, tmp_path / "open_clip_model.safetensors")
    images = torch.rand(3, 3, 32, 32)
    reward = OpenClipReward(files["architecture"], str(tmp_path))
    assert_close_to_rounding(reward(images, PROMPTS), OpenClipReward(**files)(images, PROMPTS))


def test_other_weights_are_refused(files: dict[str, str], tmp_path: Path) -> None:
    weights = torch.load(files["pretrained"], weights_only=True)["state_dict"]
    del weights["visual.proj"]
    torch.save(weights, tmp_path / "open_clip_pytorch_model.bin")
    with pytest.raises(
        ValueError, match=r"does not hold the weights of open_clip's .*tiny.json: 1 missing \(visual.proj"
    ):
        OpenClipReward(files["architecture"], str(tmp_path))
    with pytest.raises(ValueError, match=r"does not hold the weights of open_clip's ViT-B-32: .* of another shape"):
        OpenClipReward("ViT-B-32", files["pretrained"])


def test_absent_weights_of_a_tag_name_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
    with pytest.raises(FileNotFoundError, match=f"run:  hf download {repository} open_clip_model.safetensors\n"):
        OpenClipReward()
    with pytest.raises(
        FileNotFoundError, match="run:  hf download owner/name open_clip_model.safetensors --revision v2"
    ):
        OpenClipReward(pretrained="owner/name", revision="v2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ViT-H14",), r"no model 'ViT-H14'. Did you mean 'ViT-H-14'"),
        (
            ("ViT-H-14", "laion2b_s32b_b97k"),
            r"no tag of ViT-H-14, no file and no folder; its tags are .*laion2b_s32b_b79k",
        ),
        (("ViT-B-16-SigLIP", "webli"), r"custom_text.*which OpenClipReward does not score"),
        (("ViT-H-14-CLIPA", "datacomp1b"), r"interpolation: bilinear"),
        (("coca_ViT-B-32",), r"multimodal_cfg"),
    ],
)
def test_other_models_are_refused(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OpenClipReward(*arguments)


def test_bad_configs_are_refused(tmp_path: Path) -> None:
    def write(content: Any) -> str:
        (tmp_path / "config.json").write_text(content if isinstance(content, str) else json.dumps(content))
        return str(tmp_path / "config.json")

    with pytest.raises(FileNotFoundError, match="There is no file .*config.json; give an open_clip JSON config"):
        read_architecture(str(tmp_path / "config.json"))
    for content in ("{", "[]"):
        with pytest.raises(ValueError, match="is not an open_clip JSON config"):
            read_architecture(write(content))
    with pytest.raises(ValueError, match=r"\['text_cfg', 'vision_cfg'\] are missing"):
        read_architecture(write({"embed_dim": 3}))
    text = {**tiny_rewards.OPEN_CLIP["text_cfg"], "vocab_size": 50}
    with pytest.raises(ValueError, match="knows 50 tokens, open_clip's tokenizer has 49408"):
        read_architecture(write({**tiny_rewards.OPEN_CLIP, "text_cfg": text}))
    described = read_architecture(write({**tiny_rewards.OPEN_CLIP, "custom_text": False}))
    assert build_model(described.config).context_length == 77
    with pytest.raises(ValueError, match="open_clip cannot build this model: .*'widht'"):
        build_model(read_architecture(write({**tiny_rewards.OPEN_CLIP, "widht": 3})).config)
    vision = {**tiny_rewards.OPEN_CLIP["vision_cfg"], "image_size": [32, 48]}
    with pytest.raises(ValueError, match="only squares"):
        read_architecture(write({**tiny_rewards.OPEN_CLIP, "vision_cfg": vision}))


def test_normalisation_and_activation_come_from_the_config_or_the_tag(tmp_path: Path) -> None:
    config = {"model_cfg": tiny_rewards.OPEN_CLIP, "preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    described = read_architecture(str(tmp_path / "config.json"))
    assert (described.mean, described.std, described.image_size) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6], 32)
    described = read_architecture("ViT-H-14", "laion2b_s32b_b79k")
    assert (described.mean, described.std) == (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    assert not described.config["quick_gelu"]
    assert read_architecture("ViT-B-32", "openai").config["quick_gelu"]  # open_clip only warns


def test_towers_without_layers_cannot_be_checkpointed() -> None:
    with pytest.raises(ValueError, match="image tower of RN50 has no layers to checkpoint"):
        OpenClipReward("RN50", "openai", gradient_checkpointing=True)


@pytest.mark.parametrize("name", ["ViT-H-14", "RN50", "ViT-L-14-336"])
def test_nothing_but_the_mask_is_missing_from_checkpoints(name: str) -> None:
    model = build_model(read_architecture(name).config)
    buffers = {key for key, buffer in model.named_buffers() if not buffer.is_meta}
    assert buffers == {"attn_mask"} and buffers.isdisjoint(model.state_dict())
    assert all(key in model.state_dict() for key, buffer in model.named_buffers() if buffer.is_meta)
    assert all(parameter.is_meta for parameter in model.parameters())


def test_what_a_tag_stands_for_on_the_hub() -> None:
    """A tag is no name of a repository, though it looks like one."""
    tag = {"architecture": "ViT-H-14", "pretrained": "laion2b_s32b_b79k", "revision": None}
    assert [found.name for found in OpenClipReward.repositories(tag)] == ["laion/CLIP-ViT-H-14-laion2B-s32B-b79K"]
    assert [found.name for found in OpenClipReward.repositories(tag | {"pretrained": "me/mine"})] == ["me/mine"]
