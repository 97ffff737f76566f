import random
from pathlib import Path

import torch

from hn.miniature.captions import vocabulary_corpus
from hn.miniature.recipe.image_reward import ImageRewardStage, build_word_tokenizer, export
from hn.miniature.renderer import render
from hn.miniature.scenes import random_scenes
from hn.rewards.image_reward import ImageReward

TINY = {"batch_size": 6, "width": 64, "layers": 1, "text_width": 16, "text_layers": 1}


def test_every_word_is_one_token_and_the_tokenizer_the_same_every_time() -> None:
    tokenizer, again = build_word_tokenizer(), build_word_tokenizer()
    assert tokenizer.get_vocab() == again.get_vocab()
    assert tokenizer.bos_token == "[DEC]" and "[ENC]" in tokenizer.get_vocab()
    for text in vocabulary_corpus()[::97]:
        ids = tokenizer(text).input_ids
        assert len(ids) == len(text.split()) + 2 and tokenizer.unk_token_id not in ids


def test_loss_has_gradients_everywhere_the_score_comes_from() -> None:
    stage = ImageRewardStage(build_word_tokenizer(), **TINY)
    stage.loss(torch.Generator().manual_seed(0), random.Random(0))["loss"].backward()
    unused = {name for name, parameter in stage.named_parameters() if parameter.grad is None}
    assert unused == {f"scorer.{tower}_proj.{part}" for tower in ("vision", "text") for part in ("weight", "bias")}


def test_it_learns_to_tell_captions_from_their_flips() -> None:
    stage = ImageRewardStage(build_word_tokenizer(), steps=40, learning_rate=3e-3, **TINY)
    optimizer = stage.configure_optimizers()["optimizer"]
    losses = []
    for _ in range(40):  # the same batch again and again
        loss = stage.loss(torch.Generator().manual_seed(0), random.Random(0))["loss"]
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        optimizer.param_groups[0]["lr"] = 3e-3
    assert losses[-1] < 0.7 * losses[0]


def test_export_is_an_image_reward_with_the_stages_scores(tmp_path: Path) -> None:
    stage = ImageRewardStage(build_word_tokenizer(), **TINY).eval()
    images = render(random_scenes(4, torch.Generator().manual_seed(0)))
    prompts = ["a ring", "a photo of two hearts", "a red star", "a photo of a circle above a cross"]
    tokens = stage.tokenizer(prompts, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = stage.scorer((images - stage.mean) / stage.std, tokens.input_ids, tokens.attention_mask)
    export(stage, tmp_path)
    reward = ImageReward(str(tmp_path), tokenizer=str(tmp_path))
    assert next(reward.parameters()).dtype == torch.float32
    scores = reward(images, prompts) * 1.0333394966054072 + 0.16717362830052426
    torch.testing.assert_close(scores, expected, atol=2e-3, rtol=0)  # half precision on disk
