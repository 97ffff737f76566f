"""Prompts on their way to a pipeline's text encoders: checked, encoded in batches, and kept for the next time."""

import difflib
import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hn.data.encodings.cache import PromptCache
from hn.data.encodings.files import PromptFiles
from hn.data.encodings.truncation import TruncationCounter
from hn.generators.base import Conditioning
from hn.generators.families import Family
from hn.generators.offload import OnCpu, put_in
from hn.generators.tokens import TOKEN_IDS, token_ids
from hn.utils.dtype import parse_dtype

# Letters together, digits and punctuation one by one, as CLIP's tokenizer splits text before byte-pair encoding.
_WORD = re.compile(r"[^\W\d_]+|\d|[^\w\s]|_")

_END_OF_WORD = "</w>"


def unknown_words(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[str]:
    """The words of `prompt` that are not one token of the vocabulary each, in order of appearance.

    Meant for word-level vocabularies. A full byte-pair vocabulary rightly splits rare words into pieces.
    """

    def is_known(word: str) -> bool:
        ids = tokenizer(word, add_special_tokens=False).input_ids
        return len(ids) == 1 and ids[0] != tokenizer.unk_token_id

    return [word for word in dict.fromkeys(_WORD.findall(prompt)) if not is_known(word)]


def nearest_words(tokenizer: PreTrainedTokenizerBase, word: str, n: int = 3) -> list[str]:
    """Up to `n` words of the vocabulary spelled most like `word`, the nearest first.

    Ends of longer words are left out: byte-pair encoding has "ure" on its way to "picture".
    """
    ends = sorted(token.removesuffix(_END_OF_WORD) for token in tokenizer.get_vocab() if token.endswith(_END_OF_WORD))
    words = [end for end in ends if not any(other != end and other.endswith(end) for other in ends)]
    return difflib.get_close_matches(word.lower(), words, n=n, cutoff=0.5)


def require_known_words(tokenizer: PreTrainedTokenizerBase, prompt: str) -> None:
    """Raises:
    ValueError: if `prompt` has words outside the vocabulary; names them and the nearest words that are in it.
    """
    unknown = unknown_words(tokenizer, prompt)
    if not unknown:
        return
    described = []
    for word in unknown:
        nearest = nearest_words(tokenizer, word)
        described.append(f"{word!r}" + (f" (did you mean {' or '.join(map(repr, nearest))}?)" if nearest else ""))
    raise ValueError(
        f"The prompt {prompt!r} has words outside the generator's vocabulary: {', '.join(described)}. "
        "Rephrase it, or set strict_vocabulary to False to have such words encoded as the tokenizer does."
    )


COUNTED_AT_ONCE = 4096  # prompts whose tokens are in memory together


class PromptEncoder:
    """Encodes prompts with a pipeline's text encoders, each prompt once as long as it is remembered.

    Prompts whose conditioning is in files are read from there; text encoders that are not loaded are not needed then.

    Args:
        family: the pipeline's facts.
        strict_vocabulary: refuse prompts with words that are not in the tokenizer's vocabulary.
        cache_size: number of prompts whose conditioning is kept.
        batch_size: most prompts encoded in one call of the text encoder.
        files: conditioning that `hn embed` wrote.

    Attributes:
        offloaded: text encoders that the pipeline lacks, to be copied to the device while prompts are encoded.

    Raises:
        ValueError: if `batch_size` is below 1 or `cache_size` below 0.
    """

    def __init__(
        self,
        family: Family,
        strict_vocabulary: bool,
        cache_size: int,
        batch_size: int,
        files: PromptFiles | None = None,
    ):
        if batch_size < 1:
            raise ValueError(f"encode_batch_size ({batch_size}) must be at least 1.")
        self.family = family
        self.strict_vocabulary = strict_vocabulary
        self.batch_size = batch_size
        self.files = files
        self.offloaded = OnCpu()
        self._cache: PromptCache[Conditioning] = PromptCache(cache_size)
        # Two: a training step takes the one when the next batch's is under way.
        self._ahead: deque[dict[str, Future[dict[str, Conditioning]]]] = deque(maxlen=2)
        self._warned_of_long_prompts = False
        self._token_ids: Callable[[Sequence[str]], Tensor] | None = None

    def give_token_ids(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """From now on `encode` gives the prompts' tokens too (`hn.generators.tokens`)."""
        if self._token_ids is None:
            self.clear()
        self._token_ids = partial(token_ids, tokenizer, length=self.family.max_tokens(tokenizer))

    def clear(self) -> None:
        """Forget all prompts, for example after the networks moved to another device."""
        self._cache.clear()
        self._ahead.clear()

    def prefetch(self, prompts: Sequence[str], device: torch.device) -> None:
        """Begin to read from files, in a thread, what of prompts is not in memory; the results of the last two calls
        are kept for `encode`, on the CPU and, for a CUDA device, pinned. Without files there is nothing to do.

        Raises:
            ValueError: if a file is damaged; what is found in the thread is raised by `encode`.
        """
        if self.files is None:
            return
        absent = {*self.files.missing(prompts)}
        wanted = [prompt for prompt in dict.fromkeys(prompts) if prompt not in absent and prompt not in self._cache]
        if not wanted:
            return
        # A thread for each call: one that waited for the next would be missing in a process that is forked meanwhile.
        executor = ThreadPoolExecutor(1, "hn conditioning")
        self._ahead.append(dict.fromkeys(wanted, executor.submit(_read_all, self.files, wanted, device.type == "cuda")))
        executor.shutdown(wait=False)

    def check(self, pipe: DiffusionPipeline, prompts: Iterable[str]) -> None:
        """Refuse prompts with words outside the vocabulary, with `strict_vocabulary`; without text encoders and
        tokenizers, prompts that are not in the files. (What is there was looked at when it was written.) The first time
        that some are longer than a text encoder takes, a warning says how many.

        Raises:
            ValueError: names the words, and the nearest ones that are known; or the prompt.
        """
        if self.files is not None and not self.is_loaded(pipe):
            self.files.require(prompts)
            return
        if self.strict_vocabulary:
            for tokenizer in self.family.tokenizers(pipe):
                for prompt in prompts:
                    require_known_words(tokenizer, prompt)
        self._warn_of_long_prompts(pipe, prompts)

    def encode(self, pipe: DiffusionPipeline, prompts: Sequence[str], device: torch.device) -> Conditioning:
        """Conditioning of B prompts, batch first, on `device`.

        Raises:
            ValueError: if there are no prompts, or as `check` does.
        """
        if isinstance(prompts, str) or not len(prompts):
            raise ValueError(f"encode takes a list of one or more prompts, not {prompts!r}.")
        samples = self._cache.get(prompts, lambda missing: self._read_or_encode(pipe, missing, device))
        return {name: torch.cat([sample[name] for sample in samples]) for name in samples[0]}

    def is_loaded(self, pipe: DiffusionPipeline) -> bool:
        """Whether the pipeline has a text encoder."""
        return any(getattr(pipe, name, None) is not None for name in self.family.text_parts)

    def _read_or_encode(self, pipe: DiffusionPipeline, prompts: list[str], device: torch.device) -> list[Conditioning]:
        self.check(pipe, prompts)
        unwritten = prompts if self.files is None else self.files.missing(prompts)
        encoded = dict(zip(unwritten, self._encode(pipe, unwritten, device), strict=True)) if unwritten else {}
        samples = [encoded[prompt] if prompt in encoded else self._read(pipe, prompt, device) for prompt in prompts]
        for name, tensor in self.tokens(prompts).items():
            for sample, own in zip(samples, tensor.to(device).split(1), strict=True):
                sample[name] = own
        return samples

    def tokens(self, prompts: Sequence[str]) -> Conditioning:
        """The part of the conditioning that is not the text encoders': tokens, if they are to be given."""
        return {} if self._token_ids is None else {TOKEN_IDS: self._token_ids(prompts)}

    def _read(self, pipe: DiffusionPipeline, prompt: str, device: torch.device) -> Conditioning:
        assert self.files is not None
        written, now = parse_dtype(self.files.fingerprint["dtype"]), getattr(pipe, self.family.backbone_name).dtype
        return {
            # In the data type that the text encoders would have now, after a `to(torch.float64)` for example.
            name: tensor.to(device, now if tensor.dtype == written else tensor.dtype, non_blocking=True)
            for name, tensor in self._read_ahead_or_now(self.files, prompt).items()
        }

    def _read_ahead_or_now(self, files: PromptFiles, prompt: str) -> Conditioning:
        ahead = next((ahead[prompt] for ahead in self._ahead if prompt in ahead), None)
        return files.read(prompt) if ahead is None else ahead.result()[prompt]

    def _encode(self, pipe: DiffusionPipeline, prompts: list[str], device: torch.device) -> list[Conditioning]:
        samples: list[Conditioning] = []
        pipe = put_in(pipe, self.offloaded, device)
        for start in range(0, len(prompts), self.batch_size):
            batch = prompts[start : start + self.batch_size]
            # In the text encoders' own data type, whether or not a training in mixed precision is the first to ask.
            with torch.autocast(device.type, enabled=False):
                encoded = self.family.encode(pipe, batch, device)
            # Cloned: a view would keep the whole batch alive as long as one of its prompts is cached.
            samples += [{k: v[i : i + 1].clone() for k, v in encoded.items()} for i in range(len(batch))]
        return samples

    def _warn_of_long_prompts(self, pipe: DiffusionPipeline, prompts: Iterable[str]) -> None:
        """Say how many prompts are cut, the first time that there are some."""
        if self._warned_of_long_prompts:
            return
        for tokenizer in self.family.tokenizers(pipe):
            counter = TruncationCounter(self.family.max_tokens(tokenizer), "a text encoder", type(tokenizer).__name__)
            rest = iter(prompts)
            while some := list(islice(rest, COUNTED_AT_ONCE)):
                counter.count(some, [len(ids) for ids in tokenizer(some, verbose=False).input_ids])
            counter.warn()
            self._warned_of_long_prompts |= counter.cut > 0

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_ahead": deque(maxlen=2)}  # threads stay with their process


def _read_all(files: PromptFiles, prompts: list[str], pinned: bool) -> dict[str, Conditioning]:
    read = {prompt: files.read(prompt) for prompt in prompts}
    if pinned:  # so that the copy to the device keeps nobody waiting
        read = {prompt: {name: t.pin_memory() for name, t in each.items()} for prompt, each in read.items()}
    return read
