"""GenEval 2's metric, Soft-TIFA (arXiv 2512.16853; github.com/facebookresearch/GenEval2)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hn.evaluation.benchmarks.base import BenchmarkMetric, ImageScores, Row, ScoreGroup
from hn.rewards.vlm import PLACE, eight_bits
from hn.rewards.vqa_score import VqaScoreReward

COUNTING = "How many"  # what questions begin with whose answer is a number
YES = ("Yes", "yes", " yes", " Yes")
DIGITS = {
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}
TEMPLATE = f"{PLACE} Answer in one word."


class SoftTifaMetric(BenchmarkMetric):
    """`soft_tifa_am` and `soft_tifa_gm` in [0, 1]: the arithmetic and the geometric mean, over the questions of a
    prompt, of the probability that a vision-language model gives the right answer.

    A row is one of GenEval 2's: `vqa_list` with questions and their answers, `skills` of the questions and
    `atom_count`. A question is asked with "Answer in one word." after it; the probability is that of the answer's first
    token, a softmax over the whole vocabulary, summed over the ways to write the answer (`answer_forms`): of a form of
    several tokens the first one counts. The prompt-level figure of the benchmark is the mean of `soft_tifa_gm`, that of
    its atoms the mean of `soft_tifa_am`; published ones are percent.

    This is the rule of the official evaluation.py, as copies of it in other repositories have it. Differences: tokens
    that two forms share count once; the softmax is of the model's own logits, before a repetition penalty; images are
    resized by the processor's Pillow backend. Not verified, for want of the weights: how far scores are from the
    official tool's with the same model.

    Args:
        pretrained: Hub id or folder of a vision-language model of transformers that comes with a chat template; by
            default the official tool's.
        revision: branch, tag or commit on the Hub.
        dtype: data type of the weights: "float32", "bfloat16", "float16" or "float64".
        batch_size: most questions in one forward pass; scores do not depend on it.

    Raises:
        FileNotFoundError: if there is no such model; says how to get it.
        ImportError: if its processor needs a package that is not installed; says which.
        ValueError: if an argument is unknown or out of range, or it is a model of another kind.
    """

    needs = "`vqa_list`, as the prompt set geneval2 has it"
    score_names = ("soft_tifa_am", "soft_tifa_gm")

    def __init__(
        self,
        pretrained: str = "Qwen/Qwen3-VL-8B-Instruct",
        revision: str | None = None,
        dtype: str = "bfloat16",
        batch_size: int = 8,
    ) -> None:
        super().__init__()
        self.vlm = VqaScoreReward(pretrained, revision, dtype, template=TEMPLATE, batch_size=batch_size)

    @classmethod
    def asks(cls, row: Row) -> bool:
        return bool(row.get("vqa_list"))

    @classmethod
    def check_rows(cls, rows: Sequence[Row], arguments: Mapping[str, Any]) -> None:
        for row in rows:
            check_row(row)

    @torch.no_grad()
    def score(self, images: Tensor, rows: Sequence[Row]) -> list[ImageScores]:
        for row in rows:
            check_row(row)
        pictures = eight_bits(images)
        asked = [(place, *pair) for place, row in enumerate(rows) for pair in row["vqa_list"]]
        found: list[float] = []
        with torch.autocast(images.device.type, enabled=False):  # scores do not depend on the caller's precision
            for start in range(0, len(asked), self.vlm.batch_size):
                places, questions, answers = zip(*asked[start : start + self.vlm.batch_size], strict=True)
                inputs = self.vlm.inputs(pictures[list(places)], [self.vlm.question(text) for text in questions])
                probabilities = self.vlm.first_token_probabilities(inputs).cpu()
                for row, question, answer in zip(probabilities, questions, answers, strict=True):
                    ids = first_tokens(self.vlm.processor.tokenizer, answer_forms(question, answer))
                    found.append(min(1.0, row[ids].sum().item()))
        scores = iter(found)
        return [_image_scores([next(scores) for _ in row["vqa_list"]]) for row in rows]

    @classmethod
    def summarize(cls, results: Sequence[Row]) -> list[ScoreGroup]:
        """Besides the means over images: `soft_tifa_am` over the atoms of each skill, and `soft_tifa_gm` over the
        images of prompts with each number of atoms, as the official soft_tifa_analysis.py has them."""
        by_skill: dict[str, list[float]] = {}
        by_count: dict[int, list[float]] = {}
        for result in results:
            row = json.loads(result["metadata"])
            for skill, score in zip(row.get("skills", ()), result["details"]["atoms"], strict=False):
                by_skill.setdefault(skill, []).append(score)
            if "atom_count" in row:
                by_count.setdefault(row["atom_count"], []).append(result["scores"]["soft_tifa_gm"])
        skills = {f"skill {name}": ("soft_tifa_am", found) for name, found in by_skill.items()}
        counts = {f"{n} atoms": ("soft_tifa_gm", by_count[n]) for n in sorted(by_count)}
        groups = [ScoreGroup(name, len(v), {score: fmean(v)}) for name, (score, v) in (skills | counts).items()]
        return [*super().summarize(results), *groups]


def answer_forms(question: str, answer: str) -> tuple[str, ...]:
    """The ways to write the answer of a question: of a number its word and its digits, else "Yes"; each in lower case
    and capitalised, with and without a space before it."""
    if not question.startswith(COUNTING):
        return YES
    words = (answer, answer.capitalize(), *([DIGITS[answer]] if answer in DIGITS else []))
    return (*words, *(f" {word}" for word in words))


def first_tokens(tokenizer: PreTrainedTokenizerBase, forms: Sequence[str]) -> list[int]:
    """The first token of each form, each token once."""
    return sorted({tokenizer.encode(form, add_special_tokens=False)[0] for form in forms})


def geometric_mean(values: Sequence[float]) -> float:
    """0 if one of the values is."""
    return math.exp(fmean(map(math.log, values))) if all(values) else 0.0


def check_row(row: Row) -> None:
    """Raises:
    ValueError: if `vqa_list` or `skills` is not as in GenEval 2, or an answer is one that Soft-TIFA cannot score.
    """
    pairs, skills = row["vqa_list"], row.get("skills")
    if not isinstance(pairs, list) or not all(_is_pair(pair) for pair in pairs):
        raise ValueError(f'{row["prompt"]!r}: vqa_list must be pairs like ["Is the car red?", "Yes"], not {pairs!r}.')
    if skills is not None and len(skills) != len(pairs):
        raise ValueError(f"{row['prompt']!r}: there are {len(pairs)} questions and {len(skills)} skills.")
    for question, answer in pairs:
        if not question.startswith(COUNTING) and answer.lower() != "yes":
            raise ValueError(
                f"{row['prompt']!r}: the right answer to {question!r} is {answer!r}, and Soft-TIFA scores 'Yes' alone "
                f"where a question does not begin with {COUNTING!r}: turn the question round."
            )


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(p, str) and p.strip() for p in pair)


def _image_scores(atoms: list[float]) -> ImageScores:
    return ImageScores({"soft_tifa_am": fmean(atoms), "soft_tifa_gm": geometric_mean(atoms)}, {"atoms": atoms})
