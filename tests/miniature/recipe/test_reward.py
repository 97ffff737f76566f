import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hn.evaluation.geneval import evaluate
from hn.miniature.captions import Caption, judging_pools, sample_caption
from hn.miniature.recipe.reward import NEGATIVES, TAG_WEIGHTS, RewardStage, export, patch_labels
from hn.miniature.recipe.tokenizer import build_tokenizer
from hn.miniature.renderer import SceneBatch, render
from hn.miniature.scenes import random_scenes, scenes_of
from hn.miniature.world import COLOR_NAMES, COLORS, SHAPES
from hn.rewards.clip import ClipReward

TINY = {"batch_size": 8, "width": 16, "layers": 1, "text_width": 16, "projection": 8}


def test_hard_negatives_are_false_and_of_combinations_that_rewards_may_know(
    ground_truth: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, pools, flips = random.Random(0), judging_pools(), []
    captions = [sample_caption(words, pools, TAG_WEIGHTS) for _ in range(300)]
    scenes = scenes_of(captions, torch.Generator().manual_seed(0))
    monkeypatch.setattr(Caption, "paraphrase", lambda self, rng: flips.append(self) or "a flip")
    texts, valid = RewardStage(build_tokenizer(), **TINY)._flips(captions, scenes, words)
    assert len(texts) == 300 * NEGATIVES and valid.shape == (300, NEGATIVES)
    assert [text == "a flip" for text in texts] == valid.flatten().tolist()  # the others are masked out
    assert len(flips) == valid.sum() > 0.6 * len(texts)
    found = ground_truth(scenes)
    for row, flip in zip(valid.nonzero()[:, 0].tolist(), flips, strict=True):
        assert flip.tag == "counting" or flip.components <= {"train"}
        assert not evaluate(found[row], flip.metadata()).correct, (captions[row], flip)


def test_patches_know_what_covers_their_centres(scene: Callable[..., SceneBatch]) -> None:
    scenes = scene(((6, 6), 4, "heart", COLORS["pink"]), ((22, 26), 4, "ring", COLORS["black"]))
    shape, color = (labels.view(8, 8) for labels in patch_labels(scenes))
    assert shape[1, 1] == SHAPES.index("heart") and color[1, 1] == COLOR_NAMES.index("pink")
    assert shape[6, 5] == SHAPES.index("ring") and color[6, 5] == COLOR_NAMES.index("black")
    assert shape[0, 7] == len(SHAPES) and color[0, 7] == len(COLOR_NAMES)
    # 4.4 pixels around (6, 6), a centre itself, hold five centres of patches, and around (22, 26) five as well
    assert (shape != len(SHAPES)).sum() == (color != len(COLOR_NAMES)).sum() == 10


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
