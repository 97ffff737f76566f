"""BLIP's visual question answering (arXiv 2201.12086) as T2I-CompBench asks it: how probable "yes" is, against "no"."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BlipForQuestionAnswering
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from hn.rewards.image_reward import load_tokenizer
from hn.utils.dtype import full_precision, parse_dtype
from hn.utils.hub import explain_missing, locate
from hn.utils.weights import load_transformers_model

QUESTION_TOKENS = 35  # [ENC] and [SEP] included; longer questions are cut, as in BLIP's own code
QUESTION_WORDS = 50
_REMOVED = re.compile(r"[.!\"()*#:;~]")


class BlipVqa(nn.Module):
    """P("yes") / (P("yes") + P("no")) of the answer's first token, the question encoded with the image.

    As in BLIP's own code the question begins with [ENC], where transformers' `generate` has [CLS].

    Args:
        pretrained: Hub id or folder of a BlipForQuestionAnswering.
        revision: branch, tag or commit on the Hub, of the weights.
        tokenizer: Hub id or folder of the BERT tokenizer; the one beside the weights if not given. BLIP's tokens [DEC]
            and [ENC] are added.
        dtype: data type of the weights: "float32", "bfloat16", "float16" or "float64".
        image_size: side of the square that images are resized to, in pixels; weights of another size have their
            position embeddings interpolated (bicubic). None for the weights' own size.

    Raises:
        FileNotFoundError: if there are no such weights or tokenizer; says how to get them.
        ValueError: if an argument is unknown or out of range, or weights and tokenizer are not BLIP's.
    """

    def __init__(
        self, pretrained: str, revision: str | None, tokenizer: str | None, dtype: str, image_size: int | None
    ) -> None:
        super().__init__()
        torch_dtype = parse_dtype(dtype)
        found = locate(pretrained, "config.json", revision)
        self.tokenizer = load_tokenizer(tokenizer or found)
        with explain_missing(pretrained, revision):
            self.model = load_transformers_model(BlipForQuestionAnswering, found, revision, torch_dtype)
        text, vision = self.model.config.text_config, self.model.config.vision_config
        if len(self.tokenizer) != text.vocab_size or self.tokenizer.bos_token_id != text.bos_token_id:
            raise ValueError(
                f"The tokenizer {tokenizer or pretrained} has {len(self.tokenizer)} tokens with [DEC] and [ENC], but "
                f"{pretrained} is for {text.vocab_size}; give the tokenizer that it was trained with."
            )
        words = self.tokenizer.convert_tokens_to_ids(["yes", "no"])
        if self.tokenizer.unk_token_id in words:
            raise ValueError(f"The tokenizer {tokenizer or pretrained} has no tokens 'yes' and 'no'.")
        self.yes, self.no = words
        self.begin = self.tokenizer.convert_tokens_to_ids("[ENC]")
        self.image_size = vision.image_size if image_size is None else image_size
        if self.image_size < vision.patch_size or self.image_size % vision.patch_size:
            raise ValueError(f"image_size must be a multiple of {vision.patch_size}, the patches, not {image_size}.")
        for name, values in (("mean", OPENAI_CLIP_MEAN), ("std", OPENAI_CLIP_STD)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    def encode_images(self, images: Tensor) -> Tensor:
        """Image tokens [B, 1 + patches, D] of images [B, 3, H, W] in [0, 1], squeezed to a square."""
        pixels = (self.resize(images) - self.mean) / self.std
        output = self.model.vision_model(pixels.to(self.model.dtype), interpolate_pos_encoding=True)
        return output.last_hidden_state

    def resize(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] -> the same at `image_size`, float32: bicubic and antialiased."""
        size = (self.image_size, self.image_size)
        resized = functional.interpolate(images.float(), size, mode="bicubic", antialias=True, align_corners=False)
        return resized.clamp(0, 1)  # as 8-bit images are

    def yes_probabilities(
        self, image_tokens: Tensor, places: Sequence[int], questions: Sequence[str], batch_size: int
    ) -> list[float]:
        """Probabilities for questions about images.

        Args:
            image_tokens: [B, 1 + patches, D], from `encode_images`.
            places: of each question's image among the B.
            questions: as many.
            batch_size: most questions in one forward pass.
        """
        ids = [
            self.tokenizer(plain_question(question), truncation=True, max_length=QUESTION_TOKENS).input_ids
            for question in questions
        ]
        found = [0.0] * len(questions)
        # Questions of one length at a time, for transformers 5 does not mask the padding of BLIP's text towers.
        for length in sorted({len(tokens) for tokens in ids}):
            alike = [number for number, tokens in enumerate(ids) if len(tokens) == length]
            for start in range(0, len(alike), batch_size):
                some = alike[start : start + batch_size]
                input_ids = torch.tensor([ids[number] for number in some], device=image_tokens.device)
                probabilities = self._probabilities(image_tokens[[places[number] for number in some]], input_ids)
                for number, probability in zip(some, probabilities.tolist(), strict=True):
                    found[number] = probability
        return found

    def _probabilities(self, image_tokens: Tensor, input_ids: Tensor) -> Tensor:
        """[B], float32 at least, for image tokens [B, 1 + patches, D] and tokens of questions [B, L]."""
        input_ids[:, 0] = self.begin
        encoded = self.model.text_encoder(input_ids, encoder_hidden_states=image_tokens).last_hidden_state
        start = input_ids.new_full((len(input_ids), 1), self.tokenizer.bos_token_id)
        answer = self.model.text_decoder(start, encoder_hidden_states=encoded, use_cache=False)
        logits = full_precision(answer.logits[:, 0])
        return torch.sigmoid(logits[:, self.yes] - logits[:, self.no])


def plain_question(question: str) -> str:
    """A question as BLIP was trained on them: lower case, without some punctuation, 50 words at most."""
    words = _REMOVED.sub("", question.lower()).rstrip(" ").split(" ")
    return " ".join(words[:QUESTION_WORDS])
