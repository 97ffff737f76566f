"""A CLIPModel trained contrastively with hard negatives, the miniature's reward; a second one is held out."""

from __future__ import annotations

import random
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from hn.miniature.recipe.content import ContentHead, content_of_captions, content_of_scenes
from hn.miniature.recipe.judging import PATCH, PATCH_LABELS, JudgingStage
from hn.miniature.recipe.tokenizer import save_tokenizer
from hn.miniature.world import IMAGE_SIZE

MEAN, STD = 0.5, 0.5


class RewardStage(JudgingStage):
    """Contrastive, with hard negatives on the side of images and of texts.

    Two auxiliary tasks, dropped afterwards, teach the towers what to look for: what covers each patch, and what an
    embedding contains.

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
        super().__init__(
            5, steps=steps, batch_size=batch_size, learning_rate=learning_rate, seed=seed, weight_decay=0.01
        )
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
        self.dense = nn.Linear(width, PATCH_LABELS)
        self.content = ContentHead(projection)

    def loss(self, rng: torch.Generator, words: random.Random) -> dict[str, Tensor]:
        batch = self.draw(rng, words)
        captions = batch.captions
        vision = self.clip.vision_model(pixel_values=(batch.images - MEAN) / STD)
        image = F.normalize(self.clip.visual_projection(vision.pooler_output), dim=-1)
        tokens = self.tokenizer(batch.texts + batch.flips, padding="max_length", return_tensors="pt")
        encoded = self.clip.text_model(input_ids=tokens.input_ids.to(self.device)).pooler_output
        text = F.normalize(self.clip.text_projection(encoded), dim=-1)
        scale = self.clip.logit_scale.exp().clamp(max=60)
        own, other = text[: len(captions)], text[len(captions) :].view(len(captions), self.negatives, -1)

        logits = scale * image @ own.T
        meanings = [caption.meaning for caption in captions]
        same = torch.tensor([[a == b for b in meanings] for a in meanings], device=self.device)
        logits = logits.masked_fill(same & ~torch.eye(len(captions), dtype=torch.bool, device=self.device), -1e4)
        target = torch.arange(len(captions), device=self.device)
        contrastive = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        hard = scale * torch.einsum("bd,bkd->bk", image, other)
        hard = torch.cat((logits.diagonal()[:, None], hard.masked_fill(~batch.valid.to(self.device), -1e4)), 1)
        hard_loss = F.cross_entropy(hard, torch.zeros_like(target))
        dense = self.dense_loss(self.dense(vision.last_hidden_state[:, 1:]), batch.scenes)
        seen = self.content.loss(image, content_of_scenes(batch.scenes).to(self.device))
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
