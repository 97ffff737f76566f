"""What the LoRA hypernetwork and the LoRA fine-tune have in common."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from hn.compilation import compile_layers, require_compile
from hn.generators.base import Generator
from hn.hypernets.adapter import add_lora
from hn.hypernets.adapter_files import SavedAdapter, save_adapter
from hn.hypernets.shared_weights import share_weights
from hn.hypernets.weights import load_trainable_state_dict, trainable_state_dict


class LoraBackbone(nn.Module):
    """LoRA on a copy of a generator's backbone, over the same frozen tensors, with its options and its files.

    The generator is left alone, and its weights are in memory once. A mixin: subclasses say what the backbone is for.

    Args:
        rank: of every LoRA.
        alpha: the LoRA output is multiplied with alpha / rank; twice the rank if not given.
        target_modules: regular expression for full layer names, or a list of names or their endings; every Linear and
            Conv2d if not given.
        gradient_checkpointing: recompute this backbone's activations in the backward pass, to save memory.
        compile: run this backbone through `torch.compile`; the first call of each size takes its time.
    """

    def __init__(
        self,
        rank: int,
        alpha: float | None,
        target_modules: str | Sequence[str] | None,
        gradient_checkpointing: bool,
        compile: bool,
    ):
        super().__init__()
        self.rank = rank
        self.alpha = 2 * rank if alpha is None else alpha
        self.target_modules = target_modules
        self.gradient_checkpointing = gradient_checkpointing
        self.compile_backbone = compile
        if compile:
            require_compile()
        self.backbone: nn.Module | None = None

    def _adapted_backbone(self, generator: Generator) -> nn.Module:
        """A copy of the generator's backbone with LoRA, equal to it at first, in eval mode."""
        backbone = share_weights(generator.backbone)
        self.lora_config = add_lora(backbone, self.rank, self.alpha, self.target_modules)
        self.lora_config.base_model_name_or_path = generator.name
        self.lora_config.revision = generator.revision
        if self.gradient_checkpointing:
            backbone.enable_gradient_checkpointing()
        elif getattr(backbone, "is_gradient_checkpointing", False):  # copied from the generator's backbone
            backbone.disable_gradient_checkpointing()
        if self.compile_backbone and not generator.is_outline:
            compile_layers([backbone])
        return backbone.eval()

    def train(self, mode: bool = True) -> Self:
        """Keeps the backbone in eval mode: it must be the same function of the noise in training and afterwards."""
        super().train(mode)
        if self.backbone is not None:
            self.backbone.eval()
        return self

    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON has them, but for `compile`, which is up to who uses it."""
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

    def _save_adapter(self, folder: Path) -> None:
        state = {name.removeprefix("backbone."): tensor for name, tensor in self.trainable_state_dict().items()}
        save_adapter(folder, state, self.lora_config)

    def _load_adapter(self, adapter: SavedAdapter) -> None:
        self.load_trainable_state_dict({f"backbone.{name}": tensor for name, tensor in adapter.state.items()})
