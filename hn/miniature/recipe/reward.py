"""A CLIPModel trained contrastively with hard negatives, the miniature's reward; a second one is held out."""

from __future__ import annotations

import random
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from hn.miniature.captions import Caption, judging_pools, sample_caption
from hn.miniature.recipe.content import ContentHead, content_of_captions, content_of_scenes
from hn.miniature.recipe.degrade import degrade
from hn.miniature.recipe.stage import Stage
from hn.miniature.recipe.tokenizer import save_tokenizer
from hn.miniature.renderer import SceneBatch, color_table, render
from hn.miniature.scenes import directions, scenes_of
from hn.miniature.world import COLOR_NAMES, IMAGE_SIZE, SHAPES

TAG_WEIGHTS = {"single_object": 1, "two_object": 3, "counting": 3, "colors": 2, "position": 7, "color_attr": 5}
NEGATIVES = 5
PATCH = 4
MEAN, STD = 0.5, 0.5


class RewardStage(Stage):
    """Contrastive, with hard negatives.

    Each step takes captions and, for each, one of its flips as a caption of another scene, so that hard negatives
    stand on the image side too; every image also meets `NEGATIVES` flipped texts. Two auxiliary tasks, dropped
    afterwards, teach the towers what to look for: what covers each patch, and what an embedding contains. Captions
    and flips are those of `judging_pools` alone.

    Args:
        tokenizer: becomes the model's.
        steps: as for every stage; so are the next three.
        batch_size: likewise; half of the captions are flips of the other half.
        learning_rate: likewise.
        seed: likewise.
        width: of the image tower.
        layers: of the image tower.
        text_width: of the text tower, which has two layers.
        projection: dimension of the embeddings.
    """

    def __init__(
        self,
        tokenizer: CLIPTokenizer,
        steps: int = 2400,
        batch_size: int = 128,
        learning_rate: float = 1.5e-3,
        seed: int = 2,
        width: int = 128,
        layers: int = 4,
        text_width: int = 96,
        projection: int = 128,
    ) -> None:
        super().__init__(steps, batch_size, learning_rate, seed, weight_decay=0.01)
        special = {
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
        text = {
            "vocab_size": len(tokenizer),
            "max_position_embeddings": tokenizer.model_max_length,
            "hidden_size": text_width,
            "intermediate_size": 3 * text_width,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            **special,
        }
        vision = {
            "image_size": IMAGE_SIZE,
            "patch_size": PATCH,
            "hidden_size": width,
            "intermediate_size": 3 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
        }
        config = CLIPConfig(
            text_config=text, vision_config=vision, projection_dim=projection, logit_scale_init_value=2.3, **special
        )
        self.tokenizer, self.clip = tokenizer, CLIPModel(config)
        self.dense = nn.Linear(width, len(SHAPES) + 1 + len(COLOR_NAMES) + 1)
        self.content = ContentHead(projection)
        self.pools = judging_pools()
        self.known = {caption for pool in self.pools.values() for caption in pool}

    def loss(self, rng: torch.Generator, words: random.Random) -> dict[str, Tensor]:
        originals = [sample_caption(words, self.pools, TAG_WEIGHTS) for _ in range(self.batch_size // 2)]
        captions = originals + [words.choice(self._known(caption.flips(words)) or [caption]) for caption in originals]
        scenes = scenes_of(captions, rng)
        images = degrade(render(scenes), rng).to(self.device)
        texts = [caption.paraphrase(words) for caption in captions]
        flips, valid = self._flips(captions, scenes, words)

        vision = self.clip.vision_model(pixel_values=(images - MEAN) / STD)
        image = F.normalize(self.clip.visual_projection(vision.pooler_output), dim=-1)
        tokens = self.tokenizer(texts + flips, padding="max_length", return_tensors="pt").input_ids.to(self.device)
        text = F.normalize(self.clip.text_projection(self.clip.text_model(input_ids=tokens).pooler_output), dim=-1)
        scale = self.clip.logit_scale.exp().clamp(max=60)
        own, other = text[: len(captions)], text[len(captions) :].view(len(captions), NEGATIVES, -1)

        logits = scale * image @ own.T
        meanings = [caption.meaning for caption in captions]
        same = torch.tensor([[a == b for b in meanings] for a in meanings], device=self.device)
        logits = logits.masked_fill(same & ~torch.eye(len(captions), dtype=torch.bool, device=self.device), -1e4)
        target = torch.arange(len(captions), device=self.device)
        contrastive = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        hard = scale * torch.einsum("bd,bkd->bk", image, other)
        hard = torch.cat((logits.diagonal()[:, None], hard.masked_fill(~valid.to(self.device), -1e4)), 1)
        hard_loss = F.cross_entropy(hard, torch.zeros_like(target))
        dense = self._dense_loss(vision.last_hidden_state[:, 1:], scenes)
        seen = self.content.loss(image, content_of_scenes(scenes).to(self.device))
        read = self.content.loss(own, content_of_captions(captions).to(self.device))
        won = (hard.argmax(1) == 0).float()
        position = torch.tensor([caption.tag == "position" for caption in captions], device=self.device)
        return {
            "loss": contrastive + hard_loss + 0.5 * dense + seen + read,
            "contrastive": contrastive.detach(),
            "hard": won.mean(),
            "hard_position": won[position].mean(),
            "dense": dense.detach(),
            "seen": seen.detach(),
            "read": read.detach(),
            "scale": scale.detach(),
        }

    def _flips(self, captions: list[Caption], scenes: SceneBatch, words: random.Random) -> tuple[list[str], Tensor]:
        """`NEGATIVES` flipped texts a caption (flattened), and which the scene does contradict [B, NEGATIVES]."""
        texts: list[str] = []
        valid = torch.zeros(len(captions), NEGATIVES, dtype=torch.bool)
        for row, (caption, direction) in enumerate(zip(captions, directions(scenes).tolist(), strict=True)):
            flips = self._known(caption.contradicted_flips(words, direction))
            flips = words.sample(flips, min(NEGATIVES, len(flips)))
            valid[row, : len(flips)] = True
            texts += [flip.paraphrase(words) for flip in flips] + [caption.text()] * (NEGATIVES - len(flips))
        return texts, valid

    def _known(self, flips: list[Caption]) -> list[Caption]:
        return [flip for flip in flips if flip in self.known]

    def _dense_loss(self, patches: Tensor, scenes: SceneBatch) -> Tensor:
        shape, color = patch_labels(scenes)
        logits = self.dense(patches)
        cut = len(SHAPES) + 1
        shape_loss = F.cross_entropy(logits[..., :cut].flatten(0, 1), shape.flatten().to(self.device))
        return shape_loss + F.cross_entropy(logits[..., cut:].flatten(0, 1), color.flatten().to(self.device))


def patch_labels(scenes: SceneBatch) -> tuple[Tensor, Tensor]:
    """Shape and colour [B, 64] of the object that covers each patch's centre; the last index of either means none."""
    axis = (torch.arange(IMAGE_SIZE // PATCH) + 0.5) * PATCH
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    points = torch.stack((x, y), -1).view(1, -1, 1, 2)
    covered = (points - scenes.center[:, None]).norm(dim=-1) < scenes.radius[:, None] * 1.1
    index = covered.float().argmax(-1)
    none = ~covered.any(-1)
    shape = scenes.shape.argmax(-1).gather(1, index).masked_fill(none, len(SHAPES))
    nearest = torch.cdist(scenes.color, color_table()[None].expand(len(scenes), -1, -1)).argmin(-1)
    return shape, nearest.gather(1, index).masked_fill(none, len(COLOR_NAMES))


def export(stage: RewardStage, folder: str | Path) -> None:
    """Save the model in half precision, its tokenizer and its preprocessing in the layout of any CLIP checkpoint."""
    stage.clip.half().save_pretrained(folder)
    save_tokenizer(stage.tokenizer, folder)
    CLIPImageProcessor(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_mean=[MEAN] * 3,
        image_std=[STD] * 3,
    ).save_pretrained(folder)
