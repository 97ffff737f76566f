"""T2I-CompBench's metric of attributes (colour, shape, texture): BLIP-VQA on every noun phrase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from hn.evaluation.benchmarks.base import BenchmarkMetric, ImageScores, Row
from hn.evaluation.benchmarks.compbench.blip_vqa import BlipVqa
from hn.evaluation.benchmarks.compbench.phrases import SPACY_MODEL, Parser, load_parser, row_phrases


class BlipVqaMetric(BenchmarkMetric):
    """`blip_vqa` in [0, 1]: the product over the prompt's noun phrases of BLIP's probability that the image shows them.

    About each phrase, like "a red car", the question is "a red car?", and the probability that of "yes" against "no"
    (see `BlipVqa`). The phrases are spaCy's noun chunks, the first eight, without "top", "the side", "the left" and
    "the right"; a row may give its own under `noun_phrases`. All this is as in BLIPvqa_eval of the official repository.

    Differences to it: the weights are transformers' conversion, whose position embeddings are interpolated to the
    official 480 pixels if they are of another size; images are resized in floating point, not in 8 bits; nothing is
    rounded to four decimals; a prompt without noun phrases is refused, where the official score is 1.

    Args:
        pretrained: Hub id or folder of a BlipForQuestionAnswering. The official tool's weights are
            `model_base_vqa_capfilt_large.pth` of BLIP's authors, after which the default is named (not verified that
            it is its conversion: see docs/benchmarks.md).
        revision: branch, tag or commit on the Hub, of the weights.
        tokenizer: Hub id or folder of the BERT tokenizer; the one beside the weights if not given.
        dtype: data type of the weights: "float32", "bfloat16", "float16" or "float64".
        image_size: of the square that the network sees, in pixels; None for the weights' own.
        max_phrases: noun phrases that are asked about; more are left out.
        spacy_model: package or folder of the spaCy pipeline.
        batch_size: most questions in one forward pass; scores do not depend on it.

    Raises:
        FileNotFoundError: if there are no such weights or tokenizer; says how to get them.
        ValueError: if an argument is unknown or out of range, or weights and tokenizer are not BLIP's.
    """

    needs = "a prompt"
    score_names = ("blip_vqa",)

    def __init__(
        self,
        pretrained: str = "Salesforce/blip-vqa-capfilt-large",
        revision: str | None = None,
        tokenizer: str | None = None,
        dtype: str = "float32",
        image_size: int | None = 480,
        max_phrases: int = 8,
        spacy_model: str = SPACY_MODEL,
        batch_size: int = 32,
    ) -> None:
        super().__init__()
        if min(max_phrases, batch_size) < 1:
            raise ValueError(f"max_phrases and batch_size must be at least 1, not {max_phrases} and {batch_size}.")
        self.max_phrases, self.batch_size, self.spacy_model = max_phrases, batch_size, spacy_model
        self.vqa = BlipVqa(pretrained, revision, tokenizer, dtype, image_size)
        self._parse: Parser | None = None

    @classmethod
    def asks(cls, row: Row) -> bool:
        return "prompt" in row

    @classmethod
    def check_rows(cls, rows: Sequence[Row], arguments: Mapping[str, Any]) -> None:
        parse = load_parser(rows, arguments["spacy_model"])
        for row in rows:
            row_phrases(row, parse)

    @torch.no_grad()
    def score(self, images: Tensor, rows: Sequence[Row]) -> list[ImageScores]:
        self._parse = self._parse or load_parser(rows, self.spacy_model)
        phrases = [row_phrases(row, self._parse)[: self.max_phrases] for row in rows]
        places, questions = zip(*((place, f"{p}?") for place, some in enumerate(phrases) for p in some), strict=True)
        with torch.autocast(images.device.type, enabled=False):  # scores do not depend on the caller's precision
            tokens = torch.cat([self.vqa.encode_images(batch) for batch in images.split(self.batch_size)])
            found = self.vqa.yes_probabilities(tokens, places, questions, self.batch_size)
        answers = iter(found)
        of_phrases = [[[phrase, next(answers)] for phrase in some] for some in phrases]
        return [ImageScores({"blip_vqa": prod(p for _, p in some)}, {"phrases": some}) for some in of_phrases]
