"""The published hypernetwork: LoRA on a copy of the generator's own backbone (arXiv 2508.09968, section 4)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from diffusers import ModelMixin
from torch import Tensor, nn

from hn.generators.base import Conditioning, Generator
from hn.hypernets.adapter_files import WEIGHTS_FILES, SavedAdapter, read_adapter, save_adapter
from hn.hypernets.base import CONFIG_FILE, Hypernet
from hn.hypernets.lora_layers import ADAPTER, Adapted, Layers, add_lora
from hn.hypernets.merged import MergedHypernet
from hn.hypernets.network_config import read_network_config
from hn.hypernets.saving import check_base_weights
from hn.hypernets.trainable import Trainable
from hn.utils.copies import share_weights
from hn.utils.hub import explain_missing, locate_folder
from hn.utils.layers import compile_layers, require_compile


class LoraBackbone(Trainable):
    """LoRA on a copy of a generator's backbone, over the same frozen tensors, with its options and its files.

    The generator is left alone, and its weights are in memory once. Subclasses say what the backbone is for.

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
        """A copy of the generator's backbone with LoRA, equal to it at first, in eval mode.

        Raises:
            ValueError: if the backbone's weights are quantised.
        """
        if generator.quantise is not None:
            raise ValueError(
                f"LoRA is trained on the backbone's own weights, and this generator's are {generator.quantise}: leave "
                "out quantise (model.generator.init_args.quantise), or train a hypernetwork that needs no backbone, "
                "like hn.hypernets.conv.ConvHypernet."
            )
        backbone: ModelMixin = share_weights(generator.backbone)
        self.lora_config = add_lora(backbone, self.rank, self.alpha, self.target_modules)
        self.lora_config.base_model_name_or_path = generator.name
        self.lora_config.revision = generator.revision
        if self.gradient_checkpointing:
            backbone.enable_gradient_checkpointing()
        elif getattr(backbone, "is_gradient_checkpointing", False):  # copied from the generator's backbone
            backbone.disable_gradient_checkpointing()
        if self.compile_backbone and not generator.is_meta:
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

    def _save_weights(self, folder: Path) -> None:
        state = {name.removeprefix("backbone."): tensor for name, tensor in self.trainable_state_dict().items()}
        save_adapter(folder, state, self.lora_config)

    def _load_adapter(self, adapter: SavedAdapter) -> None:
        try:
            self.load_trainable_state_dict({f"backbone.{name}": tensor for name, tensor in adapter.state.items()})
        except ValueError as error:
            raise ValueError(f"{adapter.path}: {error}") from error


# What becomes of the last layer: its base output is dropped, its LoRA branch stays. PEFT's files do not say, ours do.
LORA_ONLY = "lora_branch_only"


class LowRankBranch(nn.Module):
    """The LoRA branch of an adapted layer without its base: x -> scale * B A x, zero as long as B is.

    The names of its weights are those that PEFT gives them.

    Args:
        layer: the adapted layer; its A and B are taken over, its base layer is left behind.
    """

    def __init__(self, layer: Adapted):
        super().__init__()
        self.lora_A: Layers = layer.lora_A
        self.lora_B: Layers = layer.lora_B
        self.scale: float = layer.scaling[ADAPTER]

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.lora_A[ADAPTER], self.lora_B[ADAPTER]
        return b(a(x.to(a.weight.dtype))) * self.scale


class LoraHypernet(LoraBackbone, Hypernet):
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
        compile: run this backbone through `torch.compile`; the first call of each size takes its time.
    """

    def __init__(
        self,
        rank: int = 128,
        alpha: float | None = None,
        target_modules: str | Sequence[str] | None = None,
        last_layer: str | None = None,
        gradient_checkpointing: bool = False,
        compile: bool = False,
    ):
        super().__init__(rank, alpha, target_modules, gradient_checkpointing, compile)
        self.last_layer = last_layer

    @classmethod
    def from_published(
        cls,
        pretrained: str | Path,
        generator: Generator,
        last_layer_rule: str | None = None,
        alpha: float | None = None,
        last_layer: str | None = None,
        gradient_checkpointing: bool = False,
        revision: str | None = None,
    ) -> Self:
        """A hypernetwork published as a LoRA adapter alone, bound to `generator`; what its files lack must be stated.

        Reads `adapter_model.safetensors`, `adapter_model.bin` or diffusers' `pytorch_lora_weights.safetensors`, with or
        without `adapter_config.json`. Words that libraries put before the names of layers, like `base_model.model.`,
        `module.` and `unet.`, are taken off:

            LoraHypernet.from_published(
                "lucaeyring/HyperNoise_Sana_Sprint_0.6B", generator, last_layer_rule="lora_branch_only"
            )

        Args:
            pretrained: folder, or id on the Hugging Face Hub.
            generator: the generator it was trained for.
            last_layer_rule: what becomes of the last layer, "lora_branch_only" for those of arXiv 2508.09968.
            alpha: the LoRA output is multiplied with alpha / rank; needed if there is no `adapter_config.json`.
            last_layer: name of the last layer, if not the generator's.
            gradient_checkpointing: as for the class.
            revision: branch, tag or commit on the Hub.

        Raises:
            FileNotFoundError: if there is no such adapter.
            ValueError: if the last-layer rule or alpha is unknown or not what the files say, or the adapter does not
                fit the generator's backbone, in all its layers and shapes, or was trained on other base weights.
        """
        if last_layer_rule is None:
            raise ValueError(
                f"{pretrained}: a LoRA adapter does not say what becomes of the last layer, and the wrong guess is "
                f"another function. State last_layer_rule={LORA_ONLY!r} (--last_layer_rule {LORA_ONLY} of hn generate) "
                "if the base output is dropped there and the LoRA branch alone is f, as in the published "
                "hypernetworks; otherwise it is no hypernetwork of this "
                "class (a fine-tune is a LoraFinetune)."
            )
        _check_rule(last_layer_rule, "last_layer_rule")
        folder = locate_folder(str(pretrained), WEIGHTS_FILES, revision, patterns=("*.json", *WEIGHTS_FILES))
        if (folder / CONFIG_FILE).is_file():
            config = read_network_config(folder / CONFIG_FILE)
            saved = config.get("last_layer_rule")
            if saved is not None:
                _check_rule(saved, str(folder / CONFIG_FILE))
            check_base_weights(config.get("generator", {}), generator, folder / CONFIG_FILE)
        with explain_missing(str(pretrained), revision):
            adapter = read_adapter(folder, alpha=alpha).fitted_to(generator.backbone)
        targets = adapter.target_modules(generator.backbone)
        hypernet = cls(adapter.rank, adapter.alpha, targets, last_layer, gradient_checkpointing).build(generator)
        hypernet._load_adapter(adapter)
        return hypernet

    def _build(self, generator: Generator) -> None:
        backbone = self._adapted_backbone(generator)
        self.last_layer = generator.last_layer if self.last_layer is None else self.last_layer
        try:
            last = backbone.get_submodule(self.last_layer)
        except AttributeError as error:
            raise ValueError(
                f"{type(backbone).__name__} has no layer {self.last_layer!r}; its last layer is "
                f"{generator.last_layer!r}, which is taken if last_layer is not given."
            ) from error
        if not isinstance(last, Adapted):
            raise ValueError(
                f"The last layer {self.last_layer!r} of {type(backbone).__name__} got no LoRA, so f would not start at "
                "0; it must be a Linear or Conv2d and among target_modules."
            )
        backbone.set_submodule(self.last_layer, LowRankBranch(last))
        self.backbone = backbone

    def forward(self, noise: Tensor, conditioning: Conditioning) -> Tensor:
        generator = self.generator  # refuses before `build`
        assert self.backbone is not None
        return generator.first_step(self.backbone, noise, conditioning).to(noise.dtype)

    def merged(self, compile: bool | None = None) -> MergedHypernet:
        """The same f for inference, with the LoRA merged into a copy of the backbone: faster, needs memory for it.

        This one stays as it is, and later changes of its weights are not seen there.

        Args:
            compile: run it through `torch.compile`; as this one if not given.

        Raises:
            RuntimeError: before `build`.
            ValueError: if torch.compile does not run here, or processes hold parts of the weights (FSDP2).
        """
        compile, generator = self.compile_backbone if compile is None else compile, self.generator
        assert self.backbone is not None and self.last_layer is not None
        return MergedHypernet(self.backbone, self.last_layer, generator, compile)

    def arguments(self) -> dict[str, Any]:
        return {**super().arguments(), "last_layer": self.last_layer}

    def _config(self) -> dict[str, Any]:
        return {**super()._config(), "last_layer_rule": LORA_ONLY}

    def _check_config(self, config: Mapping[str, Any], generator: Generator) -> None:
        super()._check_config(config, generator)
        _check_rule(config.get("last_layer_rule"), CONFIG_FILE)

    def _load_weights(self, folder: Path) -> None:
        self._load_adapter(read_adapter(folder, self.rank, self.alpha).fitted_to(self.generator.backbone))


def _check_rule(rule: str | None, stated_by: str) -> None:
    if rule != LORA_ONLY:
        raise ValueError(
            f"{stated_by} asks for the last-layer rule {rule!r}; this version knows {LORA_ONLY!r} alone (drop the base "
            "output, keep the LoRA branch). Another rule is another function, so it is not guessed."
        )
