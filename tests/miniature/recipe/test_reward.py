import random
from pathlib import Path

import torch

from hn.miniature.recipe.reward import RewardStage, export
from hn.miniature.recipe.tokenizer import build_tokenizer
from hn.miniature.renderer import render
from hn.miniature.scenes import random_scenes
from hn.rewards.clip import ClipReward

TINY = {"batch_size": 8, "width": 16, "layers": 1, "text_width": 16, "projection": 8}


def test_loss_has_gradients_everywhere() -> None:
    stage = RewardStage(build_tokenizer(), **TINY)
    stage.loss(torch.Generator().manual_seed(0), random.Random(0))["loss"].backward()
    unused = {name for name, parameter in stage.named_parameters() if parameter.grad is None}
    assert unused == set()


def test_export_is_a_clip_reward_with_the_stages_scores(tmp_path: Path) -> None:
    stage = RewardStage(build_tokenizer(), **TINY).eval()
    images = render(random_scenes(4, torch.Generator().manual_seed(0)))
    prompts = ["a ring", "a photo of two hearts", "a red star", "a photo of a circle above a cross"]
    tokens = stage.tokenizer(prompts, padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        image = stage.clip.get_image_features(pixel_values=(images - 0.5) / 0.5).pooler_output
        text = stage.clip.get_text_features(input_ids=tokens).pooler_output
        expected = torch.nn.functional.cosine_similarity(image, text)
    export(stage, tmp_path)
    reward = ClipReward(str(tmp_path), scale="cosine")
    assert next(reward.parameters()).dtype == torch.float32
    torch.testing.assert_close(reward(images, prompts), expected, atol=2e-3, rtol=0)  # half precision on disk
