"""UnifiedReward: a vision-language model fine-tuned to grade images for their captions (arXiv 2503.05236)."""

from typing import Literal

from hn.rewards.vlm_score import VlmScoreReward

_NUMBER = r"\s*([1-5](?:\.\d+)?)\b"
# What the models were trained to be asked, and to write: the published code's pointwise questions about an image.
_TEMPLATES = {
    "2.0": (
        "You are presented with a generated image and its associated text caption. "
        "Your task is to analyze the image across multiple dimensions in relation to the caption. Specifically:\n"
        "Provide overall assessments for the image along the following axes (each rated from 1 to 5):\n"
        "- Alignment Score: How well the image matches the caption in terms of content.\n"
        "- Coherence Score: How logically consistent the image is (absence of visual glitches, object distortions, "
        "etc.).\n"
        "- Style Score: How aesthetically appealing the image looks, regardless of caption accuracy.\n\n"
        "Output your evaluation using the format below:\n\n"
        "Alignment Score (1-5): X\nCoherence Score (1-5): Y\nStyle Score (1-5): Z\n\n"
        "Your task is provided as follows:\nText Caption: [{prompt}]"
    ),
    "1.0": (
        "You are given a text caption and a generated image based on that caption. Your task is to evaluate this image "
        "based on two key criteria:\n"
        "1. Alignment with the Caption: Assess how well this image aligns with the provided caption. Consider the "
        "accuracy of depicted objects, their relationships, and attributes as described in the caption.\n"
        "2. Overall Image Quality: Examine the visual quality of this image, including clarity, detail preservation, "
        "color accuracy, and overall aesthetic appeal.\n"
        "Extract key elements from the provided text caption, evaluate their presence in the generated image using the "
        "format: 'element (type): value' (where value=0 means not generated, and value=1 means generated), and assign "
        "a score from 1 to 5 after 'Final Score:'.\n"
        "Your task is provided as follows:\nText Caption: [{prompt}]"
    ),
}
_PATTERNS = {
    "2.0": [rf"{aspect} Score \(1-5\):{_NUMBER}" for aspect in ("Alignment", "Coherence", "Style")],
    "1.0": [rf"Final Score:{_NUMBER}"],
}


class UnifiedReward(VlmScoreReward):
    """UnifiedReward's grade of an image for its prompt, 1 to 5, parsed from the answer to the published question.

    Version 2.0 grades alignment, coherence and style; the score is their mean. Version 1.0 gives one final score after
    a list of the elements of the caption, so its answers are longer.

    Args:
        pretrained: Hub id or folder of one on Qwen2.5-VL; those on LLaVA-OneVision are not in transformers' layout.
        version: what is asked and read: "2.0" or "1.0", the latter with CodeGoat24/UnifiedReward-qwen-7b.
        fallback: score of an answer that is not in the published format; an error by default.
        max_new_tokens: most tokens of an answer.
        revision: branch, tag or commit on the Hub.
        dtype: data type of the weights: "float32", "bfloat16", "float16" or "float64".
        batch_size: most images per forward pass; scores do not depend on it.

    Raises:
        FileNotFoundError: if there is no such model; says how to get it.
        ValueError: if an argument is unknown or out of range, or it is a model of another kind.
    """

    def __init__(
        self,
        pretrained: str = "CodeGoat24/UnifiedReward-2.0-qwen-7b",
        version: Literal["2.0", "1.0"] = "2.0",
        fallback: float | None = None,
        max_new_tokens: int = 512,
        revision: str | None = None,
        dtype: str = "bfloat16",
        batch_size: int = 8,
    ):
        if version not in _TEMPLATES:
            raise ValueError(f"Unknown version {version!r}; choose '2.0' or '1.0'.")
        super().__init__(
            pretrained,
            _TEMPLATES[version],
            _PATTERNS[version],
            fallback=fallback,
            max_new_tokens=max_new_tokens,
            revision=revision,
            dtype=dtype,
            batch_size=batch_size,
        )
