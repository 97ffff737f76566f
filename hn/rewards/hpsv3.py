"""HPSv3: human preference for an image and a prompt, predicted by a vision-language model with a linear head."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import BatchFeature, ProcessorMixin, Qwen2VLConfig, Qwen2VLModel

from hn.rewards.hpsv3_prompt import REWARD_TOKEN, TEMPLATE
from hn.rewards.vlm import VlmReward, load_processor
from hn.utils.hub import explain_missing, locate, locate_file
from hn.utils.weights import assign_state_dict, is_without_weights, load_transformers_model, read_state_dict

WEIGHTS_FILE = "HPSv3.safetensors"
IMAGE_TOKENS = 256  # about: images are resized to that many, up or down, as published
_HEAD = "rm_head."
# What files call the parts of a Qwen2VLModel, those that newer versions save before the published one.
_PARTS = (
    ("model.language_model.", "language_model."),
    ("model.visual.", "visual."),
    ("model.", "language_model."),
    ("visual.", "visual."),
)


class HPSv3Reward(VlmReward):
    """The score of HPSv3 (arXiv 2508.03789): the predicted mean of the preference, unbounded. The predicted standard
    deviation is not used.

    Qwen2-VL gets the image, the published instruction and the prompt; the head is applied to the last hidden state at
    the token <|Reward|> and evaluated in float32. Image tokens have one-dimensional positions like text tokens, as in
    the training of HPSv3: the published code passes embeddings only, so Qwen2-VL does not know rows and columns.

    Args:
        pretrained: Hub id or folder of `HPSv3.safetensors`.
        revision: branch, tag or commit of it on the Hub.
        processor: Hub id or folder with configuration, tokenizer and image processor of the Qwen2-VL that HPSv3 was
            trained from; its weights are not needed.
        dtype: data type of Qwen2-VL's weights: "float32", "bfloat16" (published), "float16" or "float64".
        batch_size: most images per forward pass; scores do not depend on it.

    Raises:
        FileNotFoundError: if there are no such files; says how to get them.
        ValueError: if an argument is unknown or out of range, or the files do not fit each other or HPSv3.
    """

    def __init__(
        self,
        pretrained: str = "MizzenAI/HPSv3",
        revision: str | None = None,
        processor: str = "Qwen/Qwen2-VL-7B-Instruct",
        dtype: str = "bfloat16",
        batch_size: int = 8,
    ):
        super().__init__(TEMPLATE, dtype, batch_size)
        found = locate(processor, ("preprocessor_config.json", "processor_config.json"), files="*.json")
        with explain_missing(processor, files="*.json"):
            self.processor = load_processor(found)
            config = Qwen2VLConfig.from_pretrained(found)
        self.processor.tokenizer.add_tokens([REWARD_TOKEN], special_tokens=True)
        self.reward_id = self.processor.tokenizer.convert_tokens_to_ids(REWARD_TOKEN)
        pixels = IMAGE_TOKENS * _pixels_per_token(self.processor)
        self.image_options = {"size": {"shortest_edge": pixels, "longest_edge": pixels}}
        config.text_config.vocab_size = len(self.processor.tokenizer)
        config.text_config.use_cache = False
        head_dtype = torch.promote_types(self.dtype, torch.float32)
        with torch.device("meta"):
            self.head = reward_head(config.text_config.hidden_size).to(head_dtype)
        if is_without_weights():
            self.model = load_transformers_model(Qwen2VLModel, found, None, self.dtype, config)
        else:
            file = locate_file(pretrained, WEIGHTS_FILE, revision)
            trunk, head = split_state_dict(read_state_dict(file), file)
            _check_vocabulary(trunk, len(self.processor.tokenizer), file, processor)
            self.model = load_transformers_model(Qwen2VLModel, str(file), None, self.dtype, config, trunk)
            head = {name: tensor.to(head_dtype) for name, tensor in head.items()}
            assign_state_dict(self.head, head, file, "HPSv3's head")
        self.freeze()

    def score_inputs(self, inputs: BatchFeature) -> Tensor:
        along_text = inputs["attention_mask"].cumsum(dim=-1).sub(1).clamp(min=0)
        hidden = self.model(**inputs, position_ids=along_text.expand(3, -1, -1)).last_hidden_state
        at_token = hidden[inputs["input_ids"] == self.reward_id]  # one in each row: `question` lets prompts have none
        weight = next(self.head.parameters())
        return self.head(at_token.to(weight.dtype))[:, 0]


def reward_head(width: int) -> nn.Sequential:
    """The head of HPSv3: [B, width] -> [B, 2], mean and standard deviation. Names are those of the published file."""
    return nn.Sequential(
        nn.Linear(width, 1024), nn.ReLU(), nn.Dropout(0.05), nn.Linear(1024, 16), nn.ReLU(), nn.Linear(16, 2)
    )


def split_state_dict(state: Mapping[str, Tensor], source: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split the published weights into those of a Qwen2VLModel and those of the head. `lm_head` is dropped, since no
    text is generated.

    Raises:
        ValueError: if there is a name that HPSv3 does not have.
    """
    trunk, head, unknown = {}, {}, []
    for name, tensor in state.items():
        if name.startswith(_HEAD):
            head[name.removeprefix(_HEAD)] = tensor
        elif place := _name_in_model(name):
            trunk[place] = tensor
        elif name != "lm_head.weight":
            unknown.append(name)
    if unknown or not trunk or not head:
        names = ", ".join(sorted(unknown or state)[:4])
        raise ValueError(f"{source} does not hold the weights of HPSv3, which has no {names}, ...")
    return trunk, head


def _name_in_model(name: str) -> str | None:
    return next((part + name.removeprefix(prefix) for prefix, part in _PARTS if name.startswith(prefix)), None)


def _pixels_per_token(processor: ProcessorMixin) -> int:
    images = processor.image_processor
    return (images.patch_size * images.merge_size) ** 2


def _check_vocabulary(trunk: Mapping[str, Tensor], tokens: int, source: Path, processor: str) -> None:
    embeddings = trunk.get("language_model.embed_tokens.weight")
    if embeddings is not None and len(embeddings) != tokens:
        raise ValueError(
            f"{source} is for {len(embeddings)} tokens, and the tokenizer of {processor} has {tokens} with "
            f"{REWARD_TOKEN}; give the processor that HPSv3 was trained with."
        )
