"""The comparison method: the generator's backbone itself fine-tuned with LoRA on the reward."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self

from hn.generators.pipeline_generator import PipelineGenerator
from hn.hypernets.adapter_files import CONFIG_FILE, read_adapter
from hn.hypernets.lora import LoraBackbone
from hn.hypernets.saving import Saved, check_base_weights
from hn.utils.hub import explain_missing, locate_folder

BASE_FILE = "finetune_config.json"


class LoraFinetune(LoraBackbone, Saved):
    """Direct reward fine-tuning: the hypernetwork's LoRA, but on the generator and with its last layer kept.

    The base generator is left alone; `attach` gives a second one, whose images are differentiable in the LoRA weights:

        finetune = LoraFinetune(rank=128)
        tuned = finetune.attach(generator)
        images = tuned.generate(noise, conditioning)

    It is saved as a plain PEFT adapter, which PEFT and diffusers can load too, unless grouped convolutions are adapted:
    PEFT refuses those, or makes another layer of them.

    Args:
        rank: of every LoRA.
        alpha: the LoRA output is multiplied with alpha / rank; twice the rank if not given.
        target_modules: as for `LoraHypernet`.
        gradient_checkpointing: recompute this backbone's activations in the backward pass, to save memory.
        compile: run this backbone through `torch.compile`; the first call of each size takes its time.
    """

    kind: ClassVar[str] = "finetune"

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
        self._attached_to: tuple[PipelineGenerator, ...] = ()

    def attach(self, generator: PipelineGenerator) -> PipelineGenerator:
        """A generator that shares everything with `generator` but runs the backbone with LoRA. Equal to it at first.

        Called once; the LoRA weights are made here.

        Raises:
            RuntimeError: if called again.
        """
        if self.backbone is not None:
            raise RuntimeError("This LoraFinetune is already attached to a generator; make another one.")
        self.backbone = self._adapted_backbone(generator)
        self._attached_to = (generator,)
        return generator.with_backbone(self.backbone)

    @property
    def generator(self) -> PipelineGenerator:
        """The generator this fine-tune is attached to, which is not changed by it.

        Raises:
            RuntimeError: before `attach`.
        """
        if not self._attached_to:
            raise RuntimeError("This LoraFinetune has no weights yet; call attach(generator) first.")
        return self._attached_to[0]

    def _save_weights(self, folder: Path) -> None:
        self._save_adapter(folder)

    @classmethod
    def from_pretrained(
        cls, pretrained: str | Path, generator: PipelineGenerator, revision: str | None = None
    ) -> tuple[Self, PipelineGenerator]:
        """A saved fine-tune and the generator it makes of `generator`.

        Raises:
            FileNotFoundError: if there is no such adapter.
            ValueError: if it does not fit the generator, was trained on other base weights, or is a noise
                hypernetwork.
        """
        folder = locate_folder(str(pretrained), CONFIG_FILE, revision)
        if (folder / "hypernet_config.json").is_file():
            raise ValueError(f"{pretrained} holds a noise hypernetwork, not a fine-tune; use LoraHypernet.")
        if (folder / BASE_FILE).is_file():
            saved = json.loads((folder / BASE_FILE).read_text())
            check_base_weights(saved["generator"], generator, folder / BASE_FILE)
        with explain_missing(str(pretrained), revision):
            adapter = read_adapter(folder)
        finetune = cls(adapter.rank, adapter.alpha, adapter.target_modules(generator.backbone))
        tuned = finetune.attach(generator)
        finetune._load_adapter(adapter)
        return finetune, tuned
