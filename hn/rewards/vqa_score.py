"""VQAScore: the probability, by a vision-language model, that an image shows its prompt."""

from collections.abc import Sequence

from torch import Tensor
from transformers import BatchFeature, PreTrainedTokenizerBase

from hn.rewards.vlm import VlmReward, find_vlm, load_vlm


class VqaScoreReward(VlmReward):
    """P("Yes" | image, 'Does this figure show "{prompt}"? Please answer yes or no.'), within 0 and 1 (VQAScore,
    arXiv 2404.01291).

    The probability is that of the answer's first token, a softmax of the logits in float32 over the whole vocabulary,
    as in the published code for decoder models. It is not normalised by the probability of "No". With several
    `answers`, their probabilities are added: "Yes" and " Yes" are different tokens, and only the listed ones count.

    Published results use CLIP-FlanT5, which transformers does not have. Scores of other models are not comparable with
    them.

    Args:
        pretrained: Hub id or folder of a vision-language model of transformers that comes with a chat template.
        revision: branch, tag or commit on the Hub.
        dtype: data type of the weights: "float32", "bfloat16", "float16" or "float64".
        template: the question, with {prompt} as placeholder.
        answers: the words that count as yes, one token each.
        batch_size: most images per forward pass; scores do not depend on it.

    Raises:
        FileNotFoundError: if there is no such model; says how to get it.
        ImportError: if its processor needs a package that is not installed; says which.
        ValueError: if an argument is unknown or out of range, an answer is more than one token, or it is a model of
            another kind.
    """

    def __init__(
        self,
        pretrained: str = "Qwen/Qwen2-VL-2B-Instruct",
        revision: str | None = None,
        dtype: str = "bfloat16",
        template: str = 'Does this figure show "{prompt}"? Please answer yes or no.',
        answers: Sequence[str] = ("Yes",),
        batch_size: int = 8,
    ):
        super().__init__(template, dtype, batch_size)
        if isinstance(answers, str) or not answers:
            raise ValueError(f"answers must be a list of words like ['Yes'], not {answers!r}.")
        self.processor = find_vlm(pretrained, revision)
        self.answer_ids = token_ids(self.processor.tokenizer, answers)
        self.model = load_vlm(pretrained, revision, self.dtype, self.processor)
        self.freeze()

    def score_inputs(self, inputs: BatchFeature) -> Tensor:
        return self.first_token_probabilities(inputs)[:, self.answer_ids].sum(dim=-1)


def token_ids(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> list[int]:
    """The token of each word, each token once.

    Raises:
        ValueError: if a word is more than one token, or none.
    """
    found = {word: tokenizer.encode(word, add_special_tokens=False) for word in words}
    if several := {word: len(ids) for word, ids in found.items() if len(ids) != 1}:
        raise ValueError(f"An answer must be one token; of this tokenizer {several} are more or none.")
    return sorted({ids[0] for ids in found.values()})
