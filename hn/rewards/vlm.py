"""The base of rewards on vision-language models: a question about an image, and the inputs of the model."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms.v2.functional import to_pil_image
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    AutoProcessor,
    BatchFeature,
    GenerationConfig,
    PreTrainedModel,
    ProcessorMixin,
)

from hn.rewards.base import Reward
from hn.utils.dtype import full_precision, parse_dtype
from hn.utils.hub import explain_missing, locate
from hn.utils.weights import load_transformers_model

PLACE = "{prompt}"  # in a template


class VlmReward(Reward):
    """A frozen vision-language model that is asked one question about each image.

    The processor of the model resizes images with 8 bits per channel, so there are no gradients: such a reward can be
    reported, held out, or used in Best-of-N. Subclasses set `model` and `processor`, call `freeze`, and implement
    `score_inputs`.

    Args:
        template: the question, with {prompt} as placeholder.
        dtype: data type of the weights: "float32", "bfloat16", "float16" or "float64".
        batch_size: most images per forward pass; scores do not depend on it.

    Attributes:
        processor: from `find_vlm` or `load_processor`.
        model: from `load_vlm`, or a part of one.
        dtype: of the weights, as they are loaded.
        image_options: options of the image processor in addition to its configuration.

    Raises:
        ValueError: if the template has no {prompt}, or an argument is unknown or out of range.
    """

    differentiable = False
    model: PreTrainedModel
    processor: ProcessorMixin
    image_options: Mapping[str, Any]

    def __init__(self, template: str, dtype: str, batch_size: int):
        super().__init__()
        if PLACE not in template:
            raise ValueError(f"The template {template!r} has no {PLACE}, where the prompt belongs.")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}.")
        self.template = template
        self.dtype = parse_dtype(dtype)
        self.batch_size = batch_size
        self.image_options = {}

    def towers(self) -> list[nn.Module]:
        return [self.model]

    @torch.no_grad()
    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        questions = [self.question(prompt) for prompt in prompts]
        eight_bit = eight_bits(images)
        scores = []
        with torch.autocast(images.device.type, enabled=False):  # a judge stays the same
            for start in range(0, len(questions), self.batch_size):
                some = slice(start, start + self.batch_size)
                scores.append(self.score_inputs(self.inputs(eight_bit[some], questions[some])))
        return torch.cat(scores).to(images.device)

    @abstractmethod
    def score_inputs(self, inputs: BatchFeature) -> Tensor:
        """Scores [B], in float32, of what `inputs` made of B images and questions."""

    def question(self, prompt: str) -> str:
        """The question for an image of this prompt.

        Raises:
            ValueError: if the prompt has a special token of the model in it, which would end the question, or stand for
                an image.
        """
        if found := [token for token in self._special_tokens() if token in prompt]:
            raise ValueError(
                f"The prompt {prompt!r} has {', '.join(map(repr, found))} in it, which is special to the model that "
                "scores images: take it out."
            )
        return self.template.replace(PLACE, prompt)

    def inputs(self, images: Tensor, questions: Sequence[str]) -> BatchFeature:
        """What the model takes, on its device: images [B, 3, H, W] (uint8), each with its question in a chat whose next
        token is the answer's first one, padded on the left."""
        chats = [
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
            for question in questions
        ]
        texts = self.processor.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
        begin = self.processor.tokenizer.bos_token
        made = self.processor(
            images=[[to_pil_image(image)] for image in images],
            text=texts,
            images_kwargs=dict(self.image_options),
            padding=True,
            padding_side="left",
            # Some templates write the token of the beginning, which the tokenizer would write once more.
            add_special_tokens=begin is None or not texts[0].startswith(begin),
            return_tensors="pt",
        )
        return made.to(self.model.device, self.model.dtype)

    def first_token_probabilities(self, inputs: BatchFeature) -> Tensor:
        """How probable each token [B, V] is, in float32, as the first one of the answer to what `inputs` made."""
        # The model's own logits: those that `generate` chooses by have passed the repetition penalty.
        first = self.model.generate(**inputs, max_new_tokens=1, return_dict_in_generate=True, output_logits=True)
        return first.logits[0].float().softmax(dim=-1)

    def _special_tokens(self) -> list[str]:
        added = self.processor.tokenizer.added_tokens_decoder.values()
        return [str(token) for token in added if token.special]


def eight_bits(images: Tensor) -> Tensor:
    """Images [B, 3, H, W] in [0, 1] with 8 bits a channel: uint8, on the CPU."""
    return full_precision(images).mul(255).round().clamp(0, 255).to(torch.uint8).cpu()


def find_vlm(pretrained: str, revision: str | None) -> ProcessorMixin:
    """The processor of a model for `load_vlm`; no weights are read.

    Args:
        pretrained: Hub id or folder.
        revision: branch, tag or commit on the Hub.

    Raises:
        FileNotFoundError: if there is no such model; says how to get it.
        ImportError: if its processor needs a package that is not installed; says which.
        ValueError: if it is a model of another kind, or has no chat template.
    """
    found = locate(pretrained, "config.json", revision)
    with explain_missing(pretrained, revision):
        _model_class(found, revision)
        return load_processor(found, revision)


def load_vlm(pretrained: str, revision: str | None, dtype: torch.dtype, processor: ProcessorMixin) -> PreTrainedModel:
    """A decoder model of AutoModelForImageTextToText, set to greedy generation; of the repository's generation
    settings, only the repetition penalty is kept.

    Args:
        pretrained: Hub id or folder.
        revision: branch, tag or commit on the Hub.
        dtype: data type of the weights.
        processor: from `find_vlm`.

    Raises:
        FileNotFoundError: if there is no such model; says how to get it.
        ValueError: if it is a model of another kind, or weights are missing.
    """
    found = locate(pretrained, "config.json", revision)
    with explain_missing(pretrained, revision):
        model = load_transformers_model(_model_class(found, revision), found, revision, dtype)
    settings = model.generation_config
    model.generation_config = GenerationConfig(
        eos_token_id=settings.eos_token_id,
        pad_token_id=processor.tokenizer.pad_token_id,
        repetition_penalty=settings.repetition_penalty,
    )
    return model


def load_processor(found: str, revision: str | None = None) -> ProcessorMixin:
    """The processor of a repository that `hn.utils.hub.locate` found, with a tokenizer that can pad.

    Images are resized by Pillow, as for published numbers; torchvision's results differ by up to one level of 255.

    Raises:
        OSError: if files are missing.
        ImportError: if it needs a package that is not installed; says which.
        ValueError: if it does not support images and chat templates.
    """
    processor = AutoProcessor.from_pretrained(found, revision=revision, trust_remote_code=False)
    if not hasattr(processor, "image_processor") or not getattr(processor, "chat_template", None):
        raise ValueError(f"{found} has no processor of images with a chat template, so nothing can be asked of it.")
    processor.image_processor = AutoImageProcessor.from_pretrained(
        found, revision=revision, backend="pil", trust_remote_code=False
    )
    if processor.tokenizer.pad_token is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    return processor


def _model_class(found: str, revision: str | None) -> type[PreTrainedModel]:
    try:
        config = AutoConfig.from_pretrained(found, revision=revision, trust_remote_code=False)
    except ValueError as error:  # an architecture that transformers does not have
        raise ValueError(f"{found} is no model of transformers: {error}") from error
    model_class = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.get(type(config), None)
    if model_class is None or config.is_encoder_decoder:
        raise ValueError(
            f"{found} ({config.model_type}) is no vision-language model that answers after its question, like Qwen2-VL "
            "or LLaVA-OneVision in transformers' layout."
        )
    return model_class
