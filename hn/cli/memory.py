"""Out of memory: which options of the run at hand need less."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a GPU, or the host, has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def out_of_memory_message(error: BaseException, command: str, config: Mapping[str, Any]) -> str:
    """What to change so that less memory is needed, by the options of this run that are not set so yet.

    Args:
        error: the error.
        command: its name; `fit` and `train` train, others only evaluate.
        config: the resolved configuration: "model", "data" and "trainer" of it are read.
    """
    # "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of ...; more sentences follow.
    first = re.split(r"(?<=\.)\s+(?=[A-Z])", str(error).strip())[:2]
    lines = [
        f"Out of memory: {' '.join(first) or type(error).__name__}",
        "These options need less memory, mildest first:",
    ]
    advice = [*(_training(config) if command in ("fit", "train") else ()), *_models(config), *_evaluation(config)]
    if command in ("fit", "train"):
        advice.append("hn plan, with this configuration, counts what an update takes, and the largest batch of a GPU.")
    return "\n".join(lines + [f"  {line}" for line in advice])


def _training(config: Mapping[str, Any]) -> Iterator[str]:
    model = config["model"]
    parts = {"model.hypernet": model["hypernet"], "model.generator": model["generator"]}
    rewards = _arguments(model.get("reward")).get("rewards") or {}
    parts |= {f"model.reward.init_args.rewards.{name}": reward for name, reward in rewards.items()}
    for option, part in parts.items():
        if _arguments(part).get("gradient_checkpointing") is False:
            yield f"--{option}.init_args.gradient_checkpointing true (activations computed again, not kept)"
    batch_size = _arguments(config.get("data")).get("batch_size")
    if isinstance(batch_size, int) and batch_size > 1:
        half = next(divisor for divisor in range(2, batch_size + 1) if batch_size % divisor == 0)
        accumulated = (config["trainer"].get("accumulate_grad_batches") or 1) * half
        yield (
            f"--data.init_args.batch_size {batch_size // half} --trainer.accumulate_grad_batches {accumulated} "
            "(as many prompts per update)"
        )
    balanced = _arguments(model.get("reward")).get("balance_gradients")
    if not balanced and isinstance(batch_size, int) and "score_batch_size" in model:
        scored = model["score_batch_size"]
        if min(scored or batch_size, batch_size) > 1:
            less = 1 if scored is None else min(scored, batch_size) // 2
            yield f"--model.score_batch_size {less} (decoded and scored in parts)"


def _models(config: Mapping[str, Any]) -> Iterator[str]:
    generator = _arguments(config["model"]["generator"])
    if generator.get("cache", True) is False:
        yield "--model.generator.init_args.cache true (conditioning from files, no text encoders in memory)"
    if generator.get("dtype") == "float32":
        yield "--model.generator.init_args.dtype bfloat16 (frozen weights; with --trainer.precision bf16-mixed)"
    reward = _arguments(config["model"].get("reward"))
    if "quantise" in reward and reward["quantise"] is None:
        yield "--model.reward.init_args.quantise int8 (weights of the rewards' towers; needs hn[quantise])"


def _evaluation(config: Mapping[str, Any]) -> Iterator[str]:
    batch_size, images = _arguments(config.get("data")).get("eval_batch_size"), config["model"].get("images_per_prompt")
    if isinstance(batch_size, int) and batch_size > 1:
        yield (
            f"--data.init_args.eval_batch_size {batch_size // 2}, if it was in a validation or test: these make "
            f"{batch_size} x {images} images at once"
        )
    elif images and images > 1:
        yield f"--model.images_per_prompt {images // 2}, if it happened in a validation or test"


def _arguments(part: Any) -> Mapping[str, Any]:
    return (part or {}).get("init_args") or {}
