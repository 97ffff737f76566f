"""The published hypernetwork: LoRA on a copy of the generator's own backbone (arXiv 2508.09968, section 4)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from hn.generators.base import Conditioning, Generator
from hn.hypernets.adapter import ADAPTER, Adapted, add_lora, load_adapter, save_adapter
from hn.hypernets.base import CONFIG_FILE, Hypernet
from hn.hypernets.shared_weights import share_weights

# What becomes of the last layer; PEFT's files do not say, so ours do.
LORA_ONLY = "lora_branch_only"


class LowRankBranch(nn.Module):
    """The LoRA branch of an adapted layer without its base: x -> scale * B A x, zero as long as B is.

    The names of its weights are those that PEFT gives them.

    Args:
        layer: the adapted layer; its A and B are taken over, its base layer is left behind.
    """

    def __init__(self, layer: Adapted):
        super().__init__()
        self.lora_A = layer.lora_A
        self.lora_B = layer.lora_B
        self.scale = layer.scaling[ADAPTER]

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.lora_A[ADAPTER], self.lora_B[ADAPTER]
        return b(a(x.to(a.weight.dtype))) * self.scale


class LoraHypernet(Hypernet):
    """f is the raw output of the generator's backbone with LoRA, at pure noise and the first timestep.

    The backbone is a copy over the same frozen tensors: the generator is left alone, and its weights are in memory
    once. In the last layer only the LoRA branch remains, so that f = 0 as long as its B is zero.

    Args:
        rank: of every LoRA.
        alpha: the LoRA output is multiplied with alpha / rank; twice the rank if not given, as published for SANA and
            SD-Turbo (FLUX: 5 x rank).
        target_modules: regular expression for full layer names, or a list of names or their endings; every Linear and
            Conv2d if not given. The last layer must be among them.
        last_layer: name of the last layer, if not the generator's.
        gradient_checkpointing: recompute this backbone's activations in the backward pass, to save memory.
    """

    def __init__(
        self,
        rank: int = 128,
        alpha: float | None = None,
        target_modules: str | Sequence[str] | None = None,
        last_layer: str | None = None,
        gradient_checkpointing: bool = False,
    ):
        super().__init__()
        self.rank = rank
        self.alpha = 2 * rank if alpha is None else alpha
        self.target_modules = target_modules
        self.last_layer = last_layer
        self.gradient_checkpointing = gradient_checkpointing

    def _build(self, generator: Generator) -> None:
        backbone = share_weights(generator.backbone)
        self.last_layer = generator.last_layer if self.last_layer is None else self.last_layer
        self.lora_config = add_lora(backbone, self.rank, self.alpha, self.target_modules)
        try:
            last = backbone.get_submodule(self.last_layer)
        except AttributeError as error:
            raise ValueError(f"{type(backbone).__name__} has no layer {self.last_layer!r}.") from error
        if not isinstance(last, Adapted):
            raise ValueError(
                f"The last layer {self.last_layer!r} of {type(backbone).__name__} got no LoRA, so f would not start at "
                "0; it must be a Linear or Conv2d and among target_modules."
            )
        backbone.set_submodule(self.last_layer, LowRankBranch(last))
        if self.gradient_checkpointing:
            backbone.enable_gradient_checkpointing()
        elif getattr(backbone, "is_gradient_checkpointing", False):  # copied from the generator's backbone
            backbone.disable_gradient_checkpointing()
        self.backbone = backbone.eval()

    def forward(self, noise: Tensor, conditioning: Conditioning) -> Tensor:
        return self.generator.first_step(self.backbone, noise, conditioning).to(noise.dtype)

    def train(self, mode: bool = True) -> Self:
        """Keeps the backbone in eval mode: f must be the same function of the noise in training and afterwards."""
        super().train(mode)
        if self._built_on:
            self.backbone.eval()
        return self

    def arguments(self) -> dict[str, Any]:
        targets = self.target_modules
        return {
            "rank": self.rank,
            "alpha": self.alpha,
            "target_modules": targets if targets is None or isinstance(targets, str) else list(targets),
            "last_layer": self.last_layer,
            "gradient_checkpointing": self.gradient_checkpointing,
        }

    def _config(self) -> dict[str, Any]:
        return {**super()._config(), "last_layer_rule": LORA_ONLY}

    def _check_config(self, config: Mapping[str, Any], generator: Generator) -> None:
        super()._check_config(config, generator)
        rule = config.get("last_layer_rule")
        if rule != LORA_ONLY:
            raise ValueError(
                f"{CONFIG_FILE} asks for the last-layer rule {rule!r}; this version knows {LORA_ONLY!r} (drop the base "
                "output, keep the LoRA branch). Another rule is another function, so it is not guessed."
            )

    def _save_weights(self, folder: Path) -> None:
        state = {name.removeprefix("backbone."): t for name, t in self.trainable_state_dict().items()}
        save_adapter(folder, state, self.lora_config)

    def _load_weights(self, folder: Path) -> None:
        state = load_adapter(folder, self.rank, self.alpha)
        self.load_trainable_state_dict({f"backbone.{name}": tensor for name, tensor in state.items()})
