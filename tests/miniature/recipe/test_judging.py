import random

import pytest
import torch

from hn.evaluation.geneval import evaluate
from hn.miniature.captions import Caption, judging_pools, sample_caption
from hn.miniature.recipe.judging import TAG_WEIGHTS, JudgingStage, patch_labels
from hn.miniature.scenes import scenes_of
from hn.miniature.world import COLOR_NAMES, COLORS, SHAPES
from tests.scenes import ground_truth, scene


def test_hard_negatives_are_false_and_of_combinations_that_rewards_may_know(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = JudgingStage(5, steps=2, batch_size=8, learning_rate=1e-3, seed=0)
    words, pools, flips = random.Random(0), judging_pools(), []
    captions = [sample_caption(words, pools, TAG_WEIGHTS) for _ in range(300)]
    scenes = scenes_of(captions, torch.Generator().manual_seed(0))
    monkeypatch.setattr(Caption, "paraphrase", lambda self, rng: flips.append(self) or "a flip")
    texts, valid = stage._flips(captions, scenes, words)
    assert len(texts) == 300 * 5 and valid.shape == (300, 5)
    assert [text == "a flip" for text in texts] == valid.flatten().tolist()  # the others are masked out
    assert len(flips) == valid.sum() > 0.6 * len(texts)
    found = ground_truth(scenes)
    for row, flip in zip(valid.nonzero()[:, 0].tolist(), flips, strict=True):
        assert flip.tag == "counting" or flip.components <= {"train"}
        assert not evaluate(found[row], flip.metadata()).correct, (captions[row], flip)


def test_patches_know_what_covers_their_centres() -> None:
    scenes = scene(((6, 6), 4, "heart", COLORS["pink"]), ((22, 26), 4, "ring", COLORS["black"]))
    shape, color = (labels.view(8, 8) for labels in patch_labels(scenes))
    assert shape[1, 1] == SHAPES.index("heart") and color[1, 1] == COLOR_NAMES.index("pink")
    assert shape[6, 5] == SHAPES.index("ring") and color[6, 5] == COLOR_NAMES.index("black")
    assert shape[0, 7] == len(SHAPES) and color[0, 7] == len(COLOR_NAMES)
    # 4.4 pixels around (6, 6), a centre itself, hold five centres of patches, and around (22, 26) five as well
    assert (shape != len(SHAPES)).sum() == (color != len(COLOR_NAMES)).sum() == 10
