"""An exported pipeline as a generator: ONNX Runtime makes its images, without gradients."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

from hn.data.encodings.cache import PromptCache
from hn.data.encodings.truncation import TruncationCounter
from hn.generators.base import Conditioning, Generator
from hn.generators.prompt_encoder import require_known_words
from hn.generators.tokens import TOKEN_IDS, token_ids
from hn.utils.private.torch import ApplyHook
from hn.utils.program import OnnxModel

GENERATOR_FILE, TEXT_ENCODER_FILE, TOKENIZER_FOLDER = "generator.onnx", "text_encoder.onnx", "tokenizer"
FACTS_FILE = "generator.json"


class OnnxGenerator(ApplyHook, Generator):
    """A folder with a generator as ONNX models, which `hn export --generator PIPELINE --output FOLDER` writes.

    Images come from noise and prompts, and gradients do not come back: a hypernetwork that needs no backbone
    (`ConvHypernet`, `SubspaceHypernet`) is trained on it by forward passes alone (`ScoreFunction`). The folder has

    - `generator.onnx`: `noise` [B, *noise_shape] in float32, and tensors of conditioning by their names, to `images`
      [B, 3, H, W] in [0, 1];
    - `text_encoder.onnx`: `input_ids` [B, L], and `attention_mask` [B, L] if it takes one, to tensors of conditioning
      by their names, the token states [B, L, text_width] among them as `prompt_embeds`;
    - `tokenizer/`: of transformers, which pads prompts to L tokens and cuts them there;
    - `generator.json`: `noise_shape`, `steps`, `text_width` (C of the token states), `max_tokens` (L), `max_batch` (the
      most samples that the models take at once), and of the pipeline that was exported, if it is known, `backbone` (the
      name of its class) and `digest` (of its weights): by these, hypernetworks of that pipeline are known to fit, and
      the other way round.

    Args:
        folder: the folder.
        providers: of ONNX Runtime, the preferred one first, like CUDAExecutionProvider; the CPU if not given.
        strict_vocabulary: refuse prompts with words that are not in the tokenizer's vocabulary.
        prompt_cache_size: number of prompts whose conditioning is kept.
        encode_batch_size: most prompts encoded in one call of the text encoder.

    Raises:
        FileNotFoundError: if a file is missing.
        ImportError: if ONNX Runtime is missing.
        ValueError: if the files do not fit each other, or a number is out of range.
    """

    differentiable = False
    revision = None

    def __init__(
        self,
        folder: str,
        providers: list[str] | None = None,
        strict_vocabulary: bool = False,
        prompt_cache_size: int = 1024,
        encode_batch_size: int = 63,
    ) -> None:
        super().__init__()
        if encode_batch_size < 1:
            raise ValueError(f"encode_batch_size ({encode_batch_size}) must be at least 1.")
        path = Path(folder)
        self.name, self.facts = str(folder), read_facts(path)
        self.noise_shape, self.steps = tuple(self.facts["noise_shape"]), self.facts["steps"]
        self.images = OnnxModel(path / GENERATOR_FILE, providers)
        self.text_encoder = OnnxModel(path / TEXT_ENCODER_FILE, providers)
        self._check_models()
        self.tokenizer = AutoTokenizer.from_pretrained(path / TOKENIZER_FOLDER, trust_remote_code=False)
        self.strict_vocabulary = strict_vocabulary
        self.encode_batch_size = min(encode_batch_size, self.facts["max_batch"])
        self._cache: PromptCache[Conditioning] = PromptCache(prompt_cache_size)
        self._gives_token_ids = False
        self._truncation = TruncationCounter(self.facts["max_tokens"], "the text encoder", TEXT_ENCODER_FILE)
        self.register_buffer("place", torch.zeros(()), persistent=False)  # goes where the generator is moved to

    def _check_models(self) -> None:
        expected = {"noise", *self.text_encoder.outputs}
        if not {"noise"} <= self.images.inputs.keys() <= expected:
            raise ValueError(
                f"{self.name}: {GENERATOR_FILE} takes {', '.join(self.images.inputs)}, not noise and what "
                f"{TEXT_ENCODER_FILE} gives ({', '.join(self.text_encoder.outputs)})."
            )
        if self.images.inputs["noise"][1:] != self.noise_shape:
            raise ValueError(
                f"{self.name}: {GENERATOR_FILE} takes noise {[*self.images.inputs['noise'][1:]]}, but {FACTS_FILE} "
                f"says {[*self.noise_shape]}."
            )

    @property
    def dtype(self) -> torch.dtype:
        """float32: that of the models' inputs and outputs."""
        return torch.float32

    @property
    def backbone_class(self) -> str | None:
        """The name of the class of the exported pipeline's backbone, if it is known."""
        return self.facts.get("backbone")

    def digest(self) -> dict[str, str]:
        """Digests of the weights of the exported pipeline's backbone, if they are known."""
        return dict(self.facts.get("digest") or {})

    @property
    def text_width(self) -> int:
        return self.facts["text_width"]

    @property
    def token_count(self) -> int:
        return len(self.tokenizer)

    def give_token_ids(self) -> None:
        self._gives_token_ids = True
        self._cache.clear()

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Refuse prompts with words outside the vocabulary, with `strict_vocabulary`. The first time that some are
        longer than the text encoder takes, a warning says how many.

        Raises:
            ValueError: names the words, and the nearest ones that are known.
        """
        if self.strict_vocabulary:
            for prompt in prompts:
                require_known_words(self.tokenizer, prompt)
        if prompts:
            self._truncation.restart()
            tokens = self.tokenizer(list(prompts), verbose=False).input_ids
            self._truncation.count(prompts, [len(ids) for ids in tokens])
            self._truncation.warn()

    def check_steps(self, steps: int | None) -> None:
        """Refuse another number of sampling steps than the exported one.

        Raises:
            ValueError: says which it is.
        """
        if steps not in (None, self.steps):
            raise ValueError(f"{self.name} was exported with steps {self.steps} and takes no others, not {steps}.")

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Conditioning of B prompts, on the generator's device. Prompts seen lately are not encoded again.

        Raises:
            ValueError: if there are no prompts, or with `strict_vocabulary` if a prompt has unknown words.
        """
        if isinstance(prompts, str) or not len(prompts):
            raise ValueError(f"encode takes a list of one or more prompts, not {prompts!r}.")
        samples = self._cache.get(prompts, self._encode)
        return {name: torch.cat([sample[name] for sample in samples]) for name in samples[0]}

    def _encode(self, prompts: list[str]) -> list[Conditioning]:
        self.check_prompts(prompts)
        samples: list[Conditioning] = []
        for start in range(0, len(prompts), self.encode_batch_size):
            batch = prompts[start : start + self.encode_batch_size]
            window = self.facts["max_tokens"]
            tokens = self.tokenizer(
                batch, padding="max_length", max_length=window, truncation=True, return_tensors="pt"
            )
            encoded = self.text_encoder(tokens)
            if self._gives_token_ids:
                encoded[TOKEN_IDS] = token_ids(self.tokenizer, batch, window)
            # Cloned: a view would keep the whole batch alive as long as one of its prompts is cached.
            samples += [
                {name: tensor[i : i + 1].to(self.device, copy=True) for name, tensor in encoded.items()}
                for i in range(len(batch))
            ]
        return samples

    def generate(
        self,
        noise: Tensor,
        conditioning: Conditioning,
        steps: int | None = None,
        rng: torch.Generator | list[torch.Generator] | None = None,
    ) -> Tensor:
        """Images [B, 3, H, W] in [0, 1], float32, on the noise's device; not differentiable.

        Args:
            noise: [B, *noise_shape], distributed as N(0, I).
            conditioning: what `encode` returned for the B prompts.
            steps: the number that was exported, or None.
            rng: not used: nothing is drawn after the first step.

        Raises:
            ValueError: if the shapes do not fit, or for other steps.
        """
        self.check_steps(steps)
        if tuple(noise.shape[1:]) != self.noise_shape:
            raise ValueError(
                f"noise must have shape [B, {', '.join(map(str, self.noise_shape))}], not {[*noise.shape]}."
            )
        inputs = {"noise": noise.float(), **conditioning}
        images = []
        for start in range(0, len(noise), self.facts["max_batch"]):
            part = slice(start, start + self.facts["max_batch"])
            images.append(self.images({name: tensor[part] for name, tensor in inputs.items()})["images"])
        return torch.cat(images)

    def before_apply(self, convert: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        self._cache.clear()  # cached values are on the device of before
        return convert


def read_facts(folder: Path) -> dict[str, Any]:
    """What `generator.json` of a folder says.

    Raises:
        FileNotFoundError: if the folder has not all files of an `OnnxGenerator`.
        ValueError: if the file lacks something.
    """
    names = (FACTS_FILE, GENERATOR_FILE, TEXT_ENCODER_FILE, TOKENIZER_FOLDER)
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        raise FileNotFoundError(
            f"{folder} has no {', '.join(missing)}. Write such a folder with: hn export --generator PIPELINE --output "
            f"{folder}"
        )
    facts = json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))
    absent = [name for name in ("noise_shape", "steps", "text_width", "max_tokens", "max_batch") if name not in facts]
    if absent:
        raise ValueError(f"{folder / FACTS_FILE} does not say {', '.join(absent)}.")
    return facts
