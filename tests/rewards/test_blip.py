import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from hn.rewards.blip import BlipScorer
from hn.rewards.blip_checkpoint import build_scorer, read_config, text_config, vision_config


@pytest.fixture
def model(fixtures: Path) -> BlipScorer:
    folder = fixtures / "imagereward"
    state = load_file(folder / "tiny_model.safetensors")
    heads = json.loads((folder / "tiny.json").read_text())["vit"]["num_heads"]
    vision = vision_config(state, heads)
    text = text_config(read_config(folder / "med_config.json"), vision.hidden_size)
    return build_scorer(state, vision, text).requires_grad_(False).eval()


@pytest.fixture(scope="module")
def stored(fixtures: Path) -> dict[str, Tensor]:
    return load_file(fixtures / "imagereward" / "tiny_io.safetensors")


def test_each_part_gives_the_published_numbers(model: BlipScorer, stored) -> None:
    tokens = model.encode_image(stored["pixel_values_fp16"].float())
    torch.testing.assert_close(tokens[:, ::8], stored["image_embeds_every8th"], atol=1e-5, rtol=0)
    features = model.encode_text(stored["input_ids"], stored["attention_mask"], tokens)
    torch.testing.assert_close(features, stored["text_cls"], atol=1e-5, rtol=0)
    scores = (model.head(features) - 0.16717362830052426) / 1.0333394966054072
    torch.testing.assert_close(scores, stored["scores"][:, 0], atol=1e-5, rtol=0)


def test_padding_is_not_read(model: BlipScorer, stored) -> None:
    pixels, ids, mask = stored["pixel_values_fp16"].float(), stored["input_ids"], stored["attention_mask"]
    other = torch.where(mask == 1, ids, 7)
    assert not torch.equal(other, ids)
    torch.testing.assert_close(model(pixels, other, mask), model(pixels, ids, mask), atol=1e-6, rtol=0)
    assert (model(pixels, ids, torch.ones_like(mask)) - model(pixels, ids, mask)).abs() > 1e-3
    short = int(mask.sum())
    torch.testing.assert_close(
        model(pixels, ids[:, :short], mask[:, :short]), model(pixels, ids, mask), atol=1e-5, rtol=0
    )


def test_a_batch_equals_single_calls(model: BlipScorer, stored) -> None:
    pixels = torch.randn(3, 3, 224, 224)
    ids = torch.randint(4, 48, (3, 35))
    mask = (torch.arange(35) < torch.tensor([[5], [35], [12]])).long()
    alone = torch.cat([model(pixels[i : i + 1], ids[i : i + 1], mask[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(model(pixels, ids, mask), alone, atol=1e-5, rtol=0)


@pytest.mark.exact
def test_checkpointed_gradients_equal_plain_ones(model: BlipScorer, stored) -> None:
    def run() -> tuple[Tensor, Tensor, int, int]:
        calls, kept = [], []
        hooks = [
            layer.register_forward_hook(lambda *_: calls.append(1))
            for name, layer in model.named_modules()
            if name.endswith((".layer_norm1", ".intermediate"))  # one in each layer of the two towers
        ]
        pixels = stored["pixel_values_fp16"].float().requires_grad_(True)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.numel()), t)[1], lambda t: t):
            score = model(pixels, stored["input_ids"], stored["attention_mask"])
        (gradient,) = torch.autograd.grad(score.sum(), pixels)
        for hook in hooks:
            hook.remove()
        return score.detach(), gradient, len(calls), sum(kept)

    plain_score, plain_gradient, plain_calls, plain_kept = run()
    model.enable_gradient_checkpointing()
    score, gradient, calls, kept = run()
    assert not model.training
    assert (plain_calls, calls) == (4, 8)  # each layer once, then once more in the backward pass
    assert kept < plain_kept / 3
    assert torch.equal(score, plain_score) and torch.equal(gradient, plain_gradient)
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("autocast", [False, True])
def test_the_head_is_evaluated_in_full_precision(model: BlipScorer, autocast: bool) -> None:
    features = torch.randn(4, 32)
    exact = features.bfloat16().double()
    for layer in model.mlp.values():
        exact = exact @ layer.weight.double().T + layer.bias.double()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        scores = model.head(features.bfloat16())
    assert scores.dtype == torch.float32 and scores.shape == (4,)
    torch.testing.assert_close(scores.double(), exact[:, 0], atol=1e-5, rtol=1e-5)
