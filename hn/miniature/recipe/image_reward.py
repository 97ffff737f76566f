"""A scorer of ImageReward's architecture, which reads image and caption together: the miniature's second reward."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import BertTokenizer, BlipTextConfig, BlipVisionConfig
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from hn.miniature.captions import vocabulary_corpus
from hn.miniature.recipe.content import ContentHead, content_of_scenes
from hn.miniature.recipe.judging import PATCH, PATCH_LABELS, JudgingStage
from hn.miniature.world import IMAGE_SIZE
from hn.rewards.blip import BlipScorer
from hn.rewards.blip_checkpoint import CONFIG_FILE, published_state_dict
from hn.rewards.image_reward import PROMPT_TOKENS, add_blip_tokens

INITIAL = 0.08
"""Standard deviation of the weights at first; the defaults, 1e-10 and 0.02, are for other means and greater widths."""
SMOOTHING = 0.05
"""Captions are true, flips false, with this much doubt: a score that need not grow without end stays smooth."""


class ImageRewardStage(JudgingStage):
    """Trained to tell a caption from flips of it, and from another scene's caption, by comparison as ImageReward is
    (arXiv 2304.05977, equation 1, for several texts at once), and each by itself, so that scores of different captions
    compare. Three auxiliary tasks, dropped afterwards, teach the towers what to look for: what covers each patch, what
    the image contains, and which words are missing of a caption whose image is seen.

    Args:
        tokenizer: splits captions into words.
        steps: as for every stage; so are the next three.
        batch_size: likewise; half of the captions are flips of the other half.
        learning_rate: likewise.
        seed: likewise.
        width: of the image tower; a multiple of 64, the width of its heads.
        layers: of the image tower.
        text_width: of the text tower.
        text_layers: of the text tower.
    """

    def __init__(
        self,
        tokenizer: BertTokenizer,
        steps: int = 4000,
        batch_size: int = 64,
        learning_rate: float = 1.5e-3,
        seed: int = 4,
        width: int = 128,
        layers: int = 4,
        text_width: int = 96,
        text_layers: int = 3,
    ) -> None:
        super().__init__(
            3, steps=steps, batch_size=batch_size, learning_rate=learning_rate, seed=seed, weight_decay=0.01
        )
        vision = BlipVisionConfig(
            hidden_size=width,
            intermediate_size=3 * width,
            num_hidden_layers=layers,
            num_attention_heads=width // 64,
            image_size=IMAGE_SIZE,
            patch_size=PATCH,
            layer_norm_eps=1e-6,
            initializer_range=INITIAL,
        )
        # What med_config.json says of the text tower.
        self.sizes = {
            "vocab_size": len(tokenizer),
            "hidden_size": text_width,
            "intermediate_size": 3 * text_width,
            "num_hidden_layers": text_layers,
            "num_attention_heads": 4,
            "max_position_embeddings": PROMPT_TOKENS,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-12,
            "pad_token_id": tokenizer.pad_token_id,
        }
        text = BlipTextConfig(
            **self.sizes,
            encoder_hidden_size=width,
            initializer_range=INITIAL,
            is_decoder=True,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            bos_token_id=None,
            sep_token_id=None,
        )
        self.tokenizer, self.scorer = tokenizer, BlipScorer(vision, text)
        self.dense = nn.Linear(width, PATCH_LABELS)
        self.content = ContentHead(width)
        self.words = nn.Linear(text_width, len(tokenizer))
        self.register_buffer("mean", torch.tensor(OPENAI_CLIP_MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(OPENAI_CLIP_STD).view(3, 1, 1))

    def loss(self, rng: torch.Generator, words: random.Random) -> dict[str, Tensor]:
        batch = self.draw(rng, words)
        count = len(batch.texts)
        image_tokens = self.scorer.encode_image((batch.images - self.mean) / self.std)
        # For each image: its own caption, its flips, and the caption of the image before it.
        flips = [batch.flips[i * self.negatives : (i + 1) * self.negatives] for i in range(count)]
        texts = [[batch.texts[i], *flips[i], batch.texts[i - 1]] for i in range(count)]
        tokens = self.tokenizer([text for row in texts for text in row], padding=True, return_tensors="pt")
        tokens = tokens.to(self.device)
        repeated = image_tokens.repeat_interleave(len(texts[0]), dim=0)
        features = self.scorer.encode_text(tokens.input_ids, tokens.attention_mask, repeated)
        scores = self.scorer.head(features).view(count, -1)

        meanings = [caption.meaning for caption in batch.captions]
        other = torch.tensor([[meanings[i] != meanings[i - 1]] for i in range(count)])
        true = torch.ones(count, 1, dtype=torch.bool)
        certain = torch.cat((true, batch.valid), 1).to(self.device)
        comparable = torch.cat((certain, other.to(self.device)), 1)
        target = torch.zeros(count, dtype=torch.long, device=self.device)
        compared = F.cross_entropy(scores.masked_fill(~comparable, -1e4), target)
        label = torch.full_like(scores[:, :-1], SMOOTHING)
        label[:, 0] = 1 - SMOOTHING
        alone = F.binary_cross_entropy_with_logits(scores[:, :-1][certain], label[certain])
        dense = self.dense_loss(self.dense(image_tokens[:, 1:]), batch.scenes)
        seen = self.content.loss(
            F.normalize(image_tokens[:, 0], dim=-1), content_of_scenes(batch.scenes).to(self.device)
        )
        read = self._word_loss(batch.texts, image_tokens, rng)
        won = (scores[:, 1:-1].masked_fill(~batch.valid.to(self.device), -1e4).amax(1) < scores[:, 0]).float()
        position = torch.tensor([caption.tag == "position" for caption in batch.captions], device=self.device)
        return {
            "loss": compared + alone + 0.5 * dense + seen + read,
            "compared": compared.detach(),
            "alone": alone.detach(),
            "hard": won.mean(),
            "hard_position": won[position].mean(),
            "dense": dense.detach(),
            "seen": seen.detach(),
            "read": read.detach(),
        }

    def _word_loss(self, texts: list[str], image_tokens: Tensor, rng: torch.Generator) -> Tensor:
        """How badly masked words of captions, a third of them, are told from the image and the other words."""
        tokens = self.tokenizer(texts, padding=True, return_tensors="pt").to(self.device)
        special = torch.tensor(self.tokenizer.all_special_ids, device=self.device)
        hidden = (torch.rand(tokens.input_ids.shape, generator=rng) < 1 / 3).to(self.device)
        hidden &= ~torch.isin(tokens.input_ids, special)
        output = self.scorer.text_encoder(
            tokens.input_ids.masked_fill(hidden, self.tokenizer.mask_token_id),
            attention_mask=tokens.attention_mask,
            encoder_hidden_states=image_tokens,
        )
        return F.cross_entropy(self.words(output.last_hidden_state[hidden]), tokens.input_ids[hidden])


def build_word_tokenizer() -> BertTokenizer:
    """BERT's tokenizer over the world's words, with BLIP's special tokens; the same one every time."""
    words = sorted({word for text in vocabulary_corpus() for word in text.split()})
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    return add_blip_tokens(BertTokenizer(vocab={token: i for i, token in enumerate(tokens)}))


def export(stage: ImageRewardStage, folder: str | Path) -> None:
    """Save weights (half precision), sizes and tokenizer in the layout of the published ImageReward."""
    stage.scorer.half()
    state = {name: tensor.contiguous() for name, tensor in published_state_dict(stage.scorer).items()}
    save_file(state, Path(folder) / "image_reward.safetensors")
    (Path(folder) / CONFIG_FILE).write_text(json.dumps(stage.sizes, indent=2) + "\n")
    stage.tokenizer.save_pretrained(folder)
