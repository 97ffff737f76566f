"""PickScore: a CLIP ViT-H-14 fine-tuned on human preferences between images (Pick-a-Pic, arXiv 2305.01569)."""

from hn.rewards.clip import ClipReward


class PickScoreReward(ClipReward):
    """exp(logit_scale) * cos(image features, text features) of PickScore, about 17 to 24; the published loss is
    `30 - score`.

    Args:
        pretrained: Hub id or local folder of a CLIPModel.
        revision: branch, tag or commit of it on the Hub.
        tokenizer: Hub id or folder of the tokenizer; None for the one beside the model.
        dtype: data type of the weights: "float32", "bfloat16", "float16" or "float64".
        prompt_cache_size: number of prompts whose features are cached.
        encode_batch_size: most prompts per call of the text tower.
        gradient_checkpointing: recompute the image tower's activations in the backward pass, to save memory.

    Raises:
        FileNotFoundError: if there are no such weights; says how to get them.
        ValueError: if an argument is unknown or out of range, or the weights are not those of a CLIPModel.
    """

    published_weight = 0.05

    def __init__(
        self,
        pretrained: str = "yuvalkirstain/PickScore_v1",
        revision: str | None = None,
        tokenizer: str | None = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        dtype: str = "float32",
        prompt_cache_size: int = 16384,
        encode_batch_size: int = 64,
        gradient_checkpointing: bool = False,
    ):
        super().__init__(
            pretrained=pretrained,
            revision=revision,
            tokenizer=tokenizer,
            dtype=dtype,
            prompt_cache_size=prompt_cache_size,
            encode_batch_size=encode_batch_size,
            gradient_checkpointing=gradient_checkpointing,
        )
