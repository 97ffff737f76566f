"""The comparison method: the generator's backbone itself fine-tuned with LoRA on the reward."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from hn.generators.pipeline import DiffusersGenerator
from hn.hypernets.adapter import CONFIG_FILE, add_lora, load_adapter, save_adapter
from hn.hypernets.shared_weights import share_weights
from hn.hypernets.weights import load_trainable_state_dict, trainable_state_dict
from hn.pretrained import locate_folder


class LoraFinetune(nn.Module):
    """Direct reward fine-tuning: the hypernetwork's LoRA, but on the generator and with its last layer kept.

    The base generator is left alone; `attach` gives a second one, whose images are differentiable in the LoRA weights:

        finetune = LoraFinetune(rank=128)
        tuned = finetune.attach(generator)
        images = tuned.generate(noise, conditioning)

    Args:
        rank: of every LoRA.
        alpha: the LoRA output is multiplied with alpha / rank; twice the rank if not given.
        target_modules: as for `LoraHypernet`.
        gradient_checkpointing: recompute this backbone's activations in the backward pass, to save memory.
    """

    def __init__(
        self,
        rank: int = 128,
        alpha: float | None = None,
        target_modules: str | Sequence[str] | None = None,
        gradient_checkpointing: bool = False,
    ):
        super().__init__()
        self.rank = rank
        self.alpha = 2 * rank if alpha is None else alpha
        self.target_modules = target_modules
        self.gradient_checkpointing = gradient_checkpointing
        self.backbone: nn.Module | None = None

    def attach(self, generator: DiffusersGenerator) -> DiffusersGenerator:
        """A generator that shares everything with `generator` but runs the backbone with LoRA. Equal to it at first.

        Called once; the LoRA weights are made here.

        Raises:
            RuntimeError: if called again.
        """
        if self.backbone is not None:
            raise RuntimeError("This LoraFinetune is already attached to a generator; make another one.")
        backbone = share_weights(generator.backbone)
        self.lora_config = add_lora(backbone, self.rank, self.alpha, self.target_modules)
        if self.gradient_checkpointing:
            backbone.enable_gradient_checkpointing()
        self.backbone = backbone.eval()
        return generator.with_backbone(self.backbone)

    def train(self, mode: bool = True) -> Self:
        """Keeps the backbone in eval mode, like every generator."""
        super().train(mode)
        if self.backbone is not None:
            self.backbone.eval()
        return self

    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON has them."""
        targets = self.target_modules
        return {
            "rank": self.rank,
            "alpha": self.alpha,
            "target_modules": targets if targets is None or isinstance(targets, str) else list(targets),
            "gradient_checkpointing": self.gradient_checkpointing,
        }

    def trainable_state_dict(self) -> dict[str, Tensor]:
        """The LoRA weights by parameter name."""
        return trainable_state_dict(self)

    def load_trainable_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copy in what `trainable_state_dict` gave; raises a ValueError if it does not fit exactly."""
        load_trainable_state_dict(self, state)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a plain PEFT adapter to `folder`, which PEFT and diffusers can load too."""
        if self.backbone is None:
            raise RuntimeError("There are no weights to save yet; call attach(generator) first.")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = {name.removeprefix("backbone."): tensor for name, tensor in self.trainable_state_dict().items()}
        save_adapter(folder, state, self.lora_config)

    @classmethod
    def from_pretrained(
        cls, pretrained: str | Path, generator: DiffusersGenerator, revision: str | None = None
    ) -> tuple[Self, DiffusersGenerator]:
        """A saved fine-tune and the generator it makes of `generator`.

        Raises:
            FileNotFoundError: if there is no such adapter.
            ValueError: if it does not fit the generator, or is a noise hypernetwork.
        """
        folder = locate_folder(str(pretrained), CONFIG_FILE, revision)
        if (folder / "hypernet_config.json").is_file():
            raise ValueError(f"{pretrained} holds a noise hypernetwork, not a fine-tune; use LoraHypernet.")
        config = json.loads((folder / CONFIG_FILE).read_text())
        state = load_adapter(folder, config["r"], config["lora_alpha"])
        # The layers are read off the weights: PEFT's list of targets may be shortened to endings of names.
        layers = sorted({name.rsplit(".lora_", 1)[0] for name in state})
        finetune = cls(config["r"], config["lora_alpha"], target_modules="|".join(map(re.escape, layers)))
        tuned = finetune.attach(generator)
        finetune.load_trainable_state_dict({f"backbone.{name}": tensor for name, tensor in state.items()})
        return finetune, tuned
