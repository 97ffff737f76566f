"""The comparison method: the generator's backbone itself fine-tuned with LoRA on the reward."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from hn.generators.base import Conditioning, Generator
from hn.generators.pipeline_generator import PipelineGenerator
from hn.hypernets.adapter_files import CONFIG_FILE, WEIGHTS_FILES, read_adapter
from hn.hypernets.lora import LoraBackbone
from hn.hypernets.network_config import read_network_config
from hn.hypernets.saving import check_base_weights
from hn.utils.hub import explain_missing, locate_folder

BASE_FILE = "finetune_config.json"


class LoraFinetune(LoraBackbone):
    """Direct reward fine-tuning: the hypernetwork's LoRA, but on the generator and with its last layer kept.

    The base generator is left alone; `image_generator` is a second one that shares everything with it but runs the
    backbone with LoRA. Both make the same images at first; the noise is left alone, f is 0:

        finetune = LoraFinetune(rank=128).build(generator)
        images, _ = finetune.images(noise, conditioning)    # differentiable in the LoRA weights

    It is saved as a plain PEFT adapter, which PEFT and diffusers can load too, unless grouped convolutions are adapted:
    PEFT refuses those, or makes another layer of them.

    Args:
        rank: of every LoRA.
        alpha: the LoRA output is multiplied with alpha / rank; twice the rank if not given.
        target_modules: as for `LoraHypernet`.
        gradient_checkpointing: recompute this backbone's activations in the backward pass, to save memory.
        compile: run this backbone through `torch.compile`; the first call of each size takes its time.
    """

    kind = "finetune"
    method = "finetune"
    extra_nfe = 0

    def __init__(
        self,
        rank: int = 128,
        alpha: float | None = None,
        target_modules: str | Sequence[str] | None = None,
        gradient_checkpointing: bool = False,
        compile: bool = False,
    ):
        super().__init__(rank, alpha, target_modules, gradient_checkpointing, compile)
        # In a tuple: as an attribute of its own, the generator would become part of this module.
        self._tuned: tuple[PipelineGenerator, ...] = ()

    def _build(self, generator: Generator) -> None:
        if not isinstance(generator, PipelineGenerator):
            raise ValueError(f"A fine-tune needs the generator of a pipeline, not a {type(generator).__name__}.")
        self.backbone = self._adapted_backbone(generator)
        self._tuned = (generator.with_backbone(self.backbone),)

    @property
    def image_generator(self) -> Generator:
        """The generator with the fine-tuned backbone.

        Raises:
            RuntimeError: before `build`.
        """
        return self._tuned[0] if self._tuned else self.generator

    def forward(self, noise: Tensor, conditioning: Conditioning) -> Tensor:
        """f, [B, *noise_shape]: zeros."""
        return torch.zeros_like(noise)

    def noise_kl(self, f: Tensor) -> None:
        """None: what a fine-tune changes has no cost in noise space."""
        return

    @classmethod
    def from_pretrained(cls, pretrained: str | Path, generator: Generator, revision: str | None = None) -> Self:
        """A saved fine-tune, bound to `generator`.

        Raises:
            FileNotFoundError: if there is no such adapter.
            ValueError: if its files are damaged, it does not fit the generator, was trained on other base weights, or
                is a noise hypernetwork.
        """
        folder = locate_folder(str(pretrained), (CONFIG_FILE, *WEIGHTS_FILES), revision, ("*.json", *WEIGHTS_FILES))
        if (folder / "hypernet_config.json").is_file():
            raise ValueError(f"{pretrained} holds a noise hypernetwork, not a fine-tune; use LoraHypernet.")
        if (folder / BASE_FILE).is_file():
            saved = read_network_config(folder / BASE_FILE, cls.kind)
            check_base_weights(saved["generator"], generator, folder / BASE_FILE)
        with explain_missing(str(pretrained), revision):
            adapter = read_adapter(folder).fitted_to(generator.backbone)
        finetune = cls(adapter.rank, adapter.alpha, adapter.target_modules(generator.backbone)).build(generator)
        finetune._load_adapter(adapter)
        return finetune

    def load_same_kind(self, pretrained: str | Path, trust_remote_code: Sequence[str] = ()) -> "LoraFinetune":
        return LoraFinetune.from_pretrained(pretrained, self.generator)
