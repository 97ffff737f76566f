"""What holds for every reward on a vision-language model, and how its model is found."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing

from hn.rewards import HPSv3Reward, RewardEnsemble, UnifiedReward, VlmReward, VqaScoreReward
from tests import tiny_rewards, tiny_vlms
from tests.exactness import assert_close_to_rounding

PROMPTS = ["a red cube", 'a sign that says "Yes",\nin the rain', "{prompt} und 北京"]
REWARDS: dict[str, tuple[type[VlmReward], Callable[[Path], dict[str, Any]]]] = {
    "vqa_score": (VqaScoreReward, tiny_rewards.vqa_score),
    "hpsv3": (HPSv3Reward, tiny_rewards.hpsv3),
    "unified_reward": (UnifiedReward, tiny_rewards.unified_reward),
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return {name: write(tmp_path_factory.mktemp(name)) for name, (_, write) in REWARDS.items()}


@pytest.fixture(scope="module")
def make(checkpoints: dict[str, dict[str, Any]]) -> Callable[..., VlmReward]:
    def make(name: str, **options: Any) -> VlmReward:
        reward = REWARDS[name][0](**checkpoints[name] | {"dtype": "float32"} | options)
        if name == "unified_reward":  # grades nobody taught the tiny model to write: how long its answer is
            reward.read = lambda answer: float(len(answer)) + sum(map(ord, answer)) / 1000
        return reward

    return make


@pytest.mark.parametrize("name", REWARDS)
def test_an_image_is_scored_whatever_its_company(make: Callable[..., VlmReward], name: str) -> None:
    reward, images = make(name), torch.rand(3, 3, 40, 56)
    alone = torch.cat([reward(images[i : i + 1], PROMPTS[i : i + 1]) for i in range(3)])
    assert alone.shape == (3,) and alone.dtype == torch.float32 and len(set(alone.tolist())) == 3
    for batch_size in (1, 2, 8):
        reward.batch_size = batch_size
        assert_close_to_rounding(reward(images, PROMPTS), alone)


@pytest.mark.parametrize("name", REWARDS)
@pytest.mark.parametrize("size", [(16, 16), (48, 24), (100, 36)])
def test_images_of_any_size(make: Callable[..., VlmReward], name: str, size: tuple[int, int]) -> None:
    scores = make(name)(torch.rand(2, 3, *size), PROMPTS[:2])
    assert scores.shape == (2,) and scores.isfinite().all()


@pytest.mark.parametrize("name", REWARDS)
def test_the_image_counts_with_eight_bits_and_without_gradients(make: Callable[..., VlmReward], name: str) -> None:
    reward = make(name)
    levels = torch.randint(256, (1, 3, 32, 48))
    images = (levels / 255).requires_grad_()
    scores = reward(images, PROMPTS[:1])
    assert not scores.requires_grad and not reward.differentiable
    assert torch.equal(reward((levels + 0.4) / 255, PROMPTS[:1]), scores)
    assert torch.equal(reward((levels / 255).half(), PROMPTS[:1]), scores)
    assert not torch.equal(reward(1 - images, PROMPTS[:1]), scores)


@pytest.mark.parametrize("name", ["vqa_score", "hpsv3"])
def test_half_precision_weights_give_full_precision_scores(make: Callable[..., VlmReward], name: str) -> None:
    exact, reward = make(name), make(name, dtype="bfloat16")
    assert {p.dtype for p in reward.model.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in reward.parameters()) and not reward.train().training
    images = torch.rand(3, 3, 40, 56)
    scores = reward(images, PROMPTS)
    assert scores.dtype == torch.float32 and (scores != scores.bfloat16()).any()
    torch.testing.assert_close(scores, exact(images, PROMPTS), rtol=0.3, atol=0.03)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(reward(images, PROMPTS), scores)
        assert torch.equal(exact(images, PROMPTS), make(name)(images, PROMPTS))


def test_an_ensemble_only_looks_at_them(make: Callable[..., VlmReward]) -> None:
    reward, images = make("vqa_score"), torch.rand(2, 3, 32, 32)
    with pytest.raises(ValueError, match=r"\['vqa'\] give no gradients and cannot be trained on"):
        RewardEnsemble({"vqa": reward}, {"vqa": 1.0})
    scores = reward(images, PROMPTS[:2])
    watching = RewardEnsemble({"vqa": reward}, {"vqa": 0.0}, held_out={"same": reward})
    assert torch.equal(watching(images, PROMPTS[:2]).components["vqa"], scores)
    assert torch.equal(watching.score_held_out(images, PROMPTS[:2])["same"], scores)
    searching = RewardEnsemble({"vqa": reward}, {"vqa": 2.0}, gradient_free=True)
    assert torch.equal(searching.total(images, PROMPTS[:2]), 2 * scores)


@pytest.mark.parametrize("name", REWARDS)
@pytest.mark.parametrize("token", ["<|image_pad|>", "<|im_end|>"])
def test_a_prompt_that_would_end_the_question_is_refused(make: Callable[..., VlmReward], name: str, token: str) -> None:
    with pytest.raises(ValueError, match=r"The prompt 'a <.*' has '<.*' in it, which is special to the model"):
        make(name)(torch.rand(1, 3, 32, 32), [f"a {token} cube"])


def test_options_are_checked_before_weights_are_looked_for() -> None:
    with pytest.raises(ValueError, match=r"The template 'Is it\?' has no {prompt}"):
        VqaScoreReward("/nowhere", template="Is it?")
    for name, (reward_class, _) in REWARDS.items():
        with pytest.raises(ValueError, match="batch_size must be at least 1, not 0"):
            reward_class("/nowhere", batch_size=0)
        with pytest.raises(ValueError, match="Unknown dtype 'fp32'"):
            reward_class("/nowhere", dtype="fp32")
        assert name in REWARDS


@pytest.mark.parametrize("write", [tiny_vlms.qwen2_vl, tiny_vlms.qwen2_5_vl])
def test_the_layout_of_the_hub(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    """Weights by older names, the text's sizes at the top of config.json, images bounded by pixels, as Qwen's."""
    folder = write(tmp_path)
    images = torch.rand(2, 3, 48, 64)
    expected = VqaScoreReward(str(folder), dtype="float32")(images, PROMPTS[:2])

    weights = load_file(folder / "model.safetensors")  # which transformers saves by their older names
    assert {"model.norm.weight", "visual.blocks.0.norm1.weight", "lm_head.weight"} < weights.keys()
    config = json.loads((folder / "config.json").read_text())
    text = config.pop("text_config")
    assert text["rope_parameters"].pop("rope_theta") == 1e6
    rope = {"type": "mrope", "mrope_section": text.pop("rope_parameters")["mrope_section"]}
    config |= {name: value for name, value in text.items() if name not in ("model_type", "layer_types")}
    config |= {"rope_scaling": rope, "rope_theta": 1e6}
    config["vision_config"].pop("rope_parameters", None)
    (folder / "config.json").write_text(json.dumps(config))
    processor = json.loads((folder / "processor_config.json").read_text())["image_processor"]
    size = processor.pop("size")
    processor |= {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
    (folder / "processor_config.json").unlink()
    (folder / "preprocessor_config.json").write_text(json.dumps(processor | {"processor_class": "Qwen2VLProcessor"}))
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))

    assert torch.equal(VqaScoreReward(str(folder), dtype="float32")(images, PROMPTS[:2]), expected)


@pytest.mark.parametrize("begin", ["<|im_start|>", "<|endoftext|>"])
def test_text_begins_once(tmp_path: Path, begin: str) -> None:
    """Where the tokenizer writes a token of the beginning, and the template does so too (<|im_start|>) or does not."""
    reward = VqaScoreReward(str(tiny_vlms.qwen2_vl(tmp_path)))
    tokenizer = reward.processor.tokenizer
    tokenizer.bos_token = begin
    special = [(begin, tokenizer.convert_tokens_to_ids(begin))]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{begin} $A", special_tokens=special)
    ids = reward.inputs(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), ["a"])["input_ids"][0].tolist()
    assert ids[0] == tokenizer.bos_token_id
    text = tokenizer.decode(ids)
    assert text.removeprefix("<|endoftext|>").startswith("<|im_start|>system\nYou are")


def test_what_is_no_vision_language_model(tmp_path: Path) -> None:
    tiny_rewards.clip(tmp_path / "clip")
    with pytest.raises(ValueError, match=r"clip \(clip\) is no vision-language model that answers after its question"):
        VqaScoreReward(str(tmp_path / "clip"))
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "llava_qwen"}')  # of LLaVA's own code
    with pytest.raises(ValueError, match=r"other is no model of transformers: .*llava_qwen"):
        VqaScoreReward(str(other))


def test_missing_parts_are_named(tmp_path: Path) -> None:
    folder = tiny_vlms.qwen2_vl(tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"not hold the weights of a Qwen2VLForConditionalGeneration: 1 missing"):
        VqaScoreReward(str(folder))
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="has no processor of images with a chat template"):
        VqaScoreReward(str(folder))
