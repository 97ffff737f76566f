"""A grade from a vision-language model, parsed from its answer."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import BatchFeature

from hn.rewards.vlm import VlmReward, find_vlm, load_vlm


class VlmScoreReward(VlmReward):
    """The number in the answer of a vision-language model that is asked to grade an image for a prompt.

    Answers are generated greedily, so the score of an image is deterministic.

    Args:
        pretrained: Hub id or folder of a vision-language model of transformers that comes with a chat template.
        template: the question, with {prompt} as placeholder.
        patterns: regular expressions, each with one group for a number. The score is the mean of their first matches.
        fallback: score of an answer that does not match all patterns; an error by default.
        max_new_tokens: most tokens of an answer; longer answers are truncated.
        revision: branch, tag or commit on the Hub.
        dtype: data type of the weights: "float32", "bfloat16", "float16" or "float64".
        batch_size: most images per forward pass; scores do not depend on it.

    Raises:
        FileNotFoundError: if there is no such model; says how to get it.
        ImportError: if its processor needs a package that is not installed; says which.
        ValueError: if an argument is unknown or out of range, or it is a model of another kind.
    """

    def __init__(
        self,
        pretrained: str,
        template: str,
        patterns: Sequence[str],
        fallback: float | None = None,
        max_new_tokens: int = 512,
        revision: str | None = None,
        dtype: str = "bfloat16",
        batch_size: int = 8,
    ):
        super().__init__(template, dtype, batch_size)
        if isinstance(patterns, str) or not patterns:
            raise ValueError(f"patterns must be a list of regular expressions, not {patterns!r}.")
        self.patterns = [_compile(pattern) for pattern in patterns]
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, not {max_new_tokens}.")
        self.fallback = fallback
        self.max_new_tokens = max_new_tokens
        self.processor = find_vlm(pretrained, revision)
        self.model = load_vlm(pretrained, revision, self.dtype, self.processor)
        self.freeze()

    def score_inputs(self, inputs: BatchFeature) -> Tensor:
        written = self.model.generate(**inputs, max_new_tokens=self.max_new_tokens)
        answers = self.processor.tokenizer.batch_decode(
            written[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return torch.tensor([self.read(answer) for answer in answers], dtype=torch.float32)

    def read(self, answer: str) -> float:
        """The score in an answer.

        Raises:
            ValueError: if there is none, and no fallback.
        """
        found = [match for pattern in self.patterns if (match := pattern.search(answer))]
        if len(found) == len(self.patterns):
            return sum(float(match[1]) for match in found) / len(found)
        if self.fallback is None:
            lacking = next(pattern.pattern for pattern in self.patterns if not pattern.search(answer))
            raise ValueError(
                f"{self.model.name_or_path} answered {answer!r}, in which {lacking!r} finds no number. Give such "
                "answers a score with `fallback`, or longer ones a chance with `max_new_tokens`."
            )
        return self.fallback


def _compile(pattern: str) -> re.Pattern:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}.") from error
    if compiled.groups != 1:
        raise ValueError(f"{pattern!r} has {compiled.groups} groups; it needs one, around the number.")
    return compiled
