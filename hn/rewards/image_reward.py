"""ImageReward-v1.0: human preference for an image and a prompt, trained on 137,000 comparisons."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertTokenizer
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from hn.data.encodings.cache import PromptCache
from hn.data.encodings.truncation import TruncationCounter, uncut_lengths
from hn.rewards.base import PreprocessedReward
from hn.rewards.blip_checkpoint import CONFIG_FILE, WEIGHTS_FILE, load_scorer, read_config
from hn.rewards.preprocess import ClipPreprocess
from hn.utils.device import to_device
from hn.utils.dtype import parse_dtype
from hn.utils.files import expand_home
from hn.utils.hub import TOKENIZER_FILES, Repository, explain_missing, is_cached, locate_folder, locate_tokenizer
from hn.utils.private.torch import ApplyHook

BERT = "google-bert/bert-base-uncased"
PROMPT_TOKENS = 35  # [CLS] and [SEP] included; longer prompts are cut, as published
MEAN, STD = 0.16717362830052426, 1.0333394966054072  # of the head's output, as published


class ImageReward(ApplyHook, PreprocessedReward):
    """Score of ImageReward-v1.0 (arXiv 2304.05977): unbounded, standardised with the published mean and standard
    deviation, so that most images have scores in [-2.5, 2.5]. The published loss is `2 - score`.

    It processes image and prompt together (BLIP with cross attention), so only tokens are cached by prompt.
    `ClipPreprocess` and the head are evaluated in float32 (float64 for float64 weights), also if the weights are in
    half precision.

    Args:
        pretrained: Hub id, or local folder, of the published files: `med_config.json` and `ImageReward.pt` (or one
            .safetensors file of the same keys).
        revision: branch, tag or commit on the Hub.
        tokenizer: Hub id or folder of the BERT tokenizer; BLIP's tokens [DEC] and [ENC] are added. By default the one
            beside the weights or, if there is none (as in the published files), google-bert/bert-base-uncased.
        dtype: data type of the towers: "float32", "bfloat16", "float16" or "float64".
        prompt_cache_size: number of prompts whose tokens are cached.
        gradient_checkpointing: recompute activations of both towers in the backward pass, to save memory.
        vision_heads: attention heads of the image tower, which are not in the files; width / 64 by default, as in BLIP.

    Raises:
        FileNotFoundError: if there are no such weights or tokenizer; says how to get them.
        ValueError: if an argument is unknown or out of range, or the files do not fit each other or ImageReward.
    """

    published_weight = 1.0

    def __init__(
        self,
        pretrained: str = "zai-org/ImageReward",
        revision: str | None = None,
        tokenizer: str | None = None,
        dtype: str = "float32",
        prompt_cache_size: int = 16384,
        gradient_checkpointing: bool = False,
        vision_heads: int | None = None,
    ):
        super().__init__()
        torch_dtype = parse_dtype(dtype)
        self._prompt_cache: PromptCache[Tensor] = PromptCache(prompt_cache_size)
        patterns = (CONFIG_FILE, WEIGHTS_FILE, "*.safetensors", "tokenizer*.json", "vocab.txt")
        folder = locate_folder(pretrained, CONFIG_FILE, revision, patterns)
        if tokenizer is None:
            tokenizer = str(folder) if (folder / "tokenizer_config.json").is_file() else BERT
        self.tokenizer = load_tokenizer(tokenizer)
        config = read_config(folder / CONFIG_FILE)
        self.truncation = TruncationCounter(PROMPT_TOKENS, f"the text encoder of {type(self).__name__}", pretrained)
        self._check_text(config["vocab_size"], config["max_position_embeddings"], tokenizer, folder)
        with explain_missing(pretrained, revision):
            self.model = load_scorer(folder, config, vision_heads, torch_dtype)
        if gradient_checkpointing:
            self.model.enable_gradient_checkpointing()
        size = self.model.visual_encoder.config.image_size
        self.preprocess = ClipPreprocess(size, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
        self.freeze()

    @classmethod
    def repositories(cls, arguments: Mapping[str, Any]) -> Iterator[Repository]:
        yield from super().repositories(arguments)
        folder, beside = expand_home(arguments["pretrained"]), "tokenizer_config.json"
        if folder.is_dir():
            has_own = (folder / beside).is_file()
        else:
            has_own = is_cached(Repository(arguments["pretrained"], arguments["revision"], files=beside))
        if arguments["tokenizer"] is None and not has_own:
            yield Repository(BERT, files=TOKENIZER_FILES)

    def towers(self) -> list[nn.Module]:
        return [self.model.visual_encoder, self.model.text_encoder]

    def image_layers(self) -> list[nn.Module]:
        return [*self.model.visual_encoder.encoder.layers, *self.model.text_encoder.encoder.layer]

    def score_pixels(self, pixel_values: Tensor, prompts: Sequence[str]) -> Tensor:
        tokens = torch.stack(self._prompt_cache.get(prompts, self._tokens_of_prompts))
        input_ids, attention_mask = tokens.unbind(dim=1)
        return (self.model(pixel_values, input_ids, attention_mask) - MEAN) / STD

    def _tokens_of_prompts(self, prompts: list[str]) -> list[Tensor]:
        """Token ids and their mask, stacked: one [2, 35] for each prompt, on the weights' device."""
        tokens = self.tokenizer(
            prompts, padding="max_length", max_length=PROMPT_TOKENS, truncation=True, return_tensors="pt"
        )
        self.truncation.count(prompts, uncut_lengths(tokens))
        self.truncation.warn()
        stacked = torch.stack([tokens.input_ids, tokens.attention_mask], dim=1)
        return list(to_device(stacked, self.model.visual_encoder.device))

    def _check_text(self, vocabulary: int, positions: int, tokenizer: str, folder: Path) -> None:
        if len(self.tokenizer) != vocabulary:
            raise ValueError(
                f"The tokenizer {tokenizer} has {len(self.tokenizer)} tokens with [DEC] and [ENC], but {folder} is for "
                f"{vocabulary}; give the tokenizer that it was trained with."
            )
        if positions < PROMPT_TOKENS:
            raise ValueError(f"{folder} has room for {positions} tokens; ImageReward's prompts have {PROMPT_TOKENS}.")

    def before_apply(self, convert: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        self._prompt_cache.clear()  # cached values are of the device and data type of before
        return convert


def load_tokenizer(pretrained: str) -> BertTokenizer:
    """BERT's tokenizer with BLIP's two special tokens at its end: [DEC], its bos token, and [ENC].

    Raises:
        FileNotFoundError: if there is none; says how to get it.
    """
    found = locate_tokenizer(pretrained, ("vocab.txt",))
    with explain_missing(pretrained):
        return add_blip_tokens(BertTokenizer.from_pretrained(found))


def add_blip_tokens(tokenizer: BertTokenizer) -> BertTokenizer:
    """The tokenizer itself, with BLIP's two tokens at its end if it has none: [DEC], its bos token, and [ENC]."""
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    tokenizer.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
    return tokenizer
