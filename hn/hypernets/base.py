"""What every noise hypernetwork offers, and how one is loaded."""

import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import save_file
from torch import Tensor

from hn.generators.base import Conditioning, Generator
from hn.generators.noise import prompt_noise
from hn.hypernets.network_config import make_network, read_network_config
from hn.hypernets.saving import check_base_weights
from hn.hypernets.trainable import Trainable
from hn.objective import noise_kl
from hn.utils.class_path import class_path, import_named_in_file
from hn.utils.distributed import class_of
from hn.utils.hub import explain_missing, locate_folder
from hn.utils.weights import read_state_dict, require_finite

log = logging.getLogger(__name__)

CONFIG_FILE = "hypernet_config.json"


class Hypernet(Trainable):
    """A noise hypernetwork f: (noise, conditioning) -> perturbation of the noise, exactly 0 at initialisation.

    It is described without a generator, so that a configuration file can, and bound to one by `build`:

        hypernet = LoraHypernet(rank=128)
        hypernet.build(generator)
        modulated = hypernet.modulate(noise, conditioning)    # what generator.generate takes
        latents = hypernet.latents(prompts, seed=0)           # what a stock pipeline takes

    Subclasses make their weights in `_build` and compute f in `forward`.
    """

    kind = "hypernet"
    method = "hypernetwork"
    extra_nfe = 1
    weights_file = "hypernet.safetensors"

    @property
    def image_generator(self) -> Generator:
        """The frozen generator."""
        return self.generator

    @abstractmethod
    def forward(self, noise: Tensor, conditioning: Conditioning) -> Tensor:
        """The perturbation f, [B, *noise_shape], of noise x0 ~ N(0, I) of that shape; in the noise's data type."""

    def noise_kl(self, f: Tensor) -> Tensor:
        """1/2 |f|^2, [B]."""
        return noise_kl(f)

    def modulate(self, noise: Tensor, conditioning: Conditioning) -> Tensor:
        """Modulated noise T(x0) = x0 + f(x0), [B, *noise_shape]."""
        return noise + self(noise, conditioning)

    @torch.no_grad()
    def latents(self, prompts: str | Sequence[str], seed: int = 0, images_per_prompt: int = 1) -> Tensor:
        """Modulated noise of prompts, as a stock pipeline takes it: `pipe(prompts, latents=hypernet.latents(prompts))`.

        The noise of image k of any prompt depends on seed and k alone, and is that of `hn generate`. The pipeline
        encodes the prompts once more; `pipe(**hypernet.generator.encode(prompts), latents=...)`, with embeddings
        instead of prompts, skips the text encoders.

        Args:
            prompts: one prompt, or P of them.
            seed: of the noise.
            images_per_prompt: K.

        Returns:
            [P * K, *noise_shape], prompt by prompt, on the generator's device and in the pipeline's data type.

        Raises:
            ValueError: if there are no prompts, or `images_per_prompt` is below 1.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if images_per_prompt < 1:
            raise ValueError(f"images_per_prompt must be at least 1, not {images_per_prompt}.")
        conditioning = self.generator.encode([prompt for prompt in prompts for _ in range(images_per_prompt)])
        noise = prompt_noise(self.generator, [*range(images_per_prompt)] * len(prompts), seed)
        return self.modulate(noise, conditioning).to(self.generator.latents_dtype)

    @classmethod
    def from_pretrained(
        cls,
        pretrained: str | Path,
        generator: Generator,
        revision: str | None = None,
        trust_remote_code: Sequence[str] = (),
    ) -> Self:
        """A saved hypernetwork, bound to `generator`.

        The file says of which class it is. Nothing is imported for it but classes of hn, and those that you name: the
        class on which this is called, and `trust_remote_code`.

        Args:
            pretrained: folder, or id on the Hugging Face Hub.
            generator: the generator it was trained for.
            revision: branch, tag or commit on the Hub.
            trust_remote_code: class paths of hypernetworks, not of hn, that the files may name.

        Raises:
            FileNotFoundError: if there is no such hypernetwork. A PEFT adapter alone is not one: it does not say what
                becomes of the last layer.
            ValueError: if it is of another class or of one that is not trusted, its files are damaged, it does not fit
                the generator, or was trained on other base weights.
        """
        try:
            folder = locate_folder(str(pretrained), CONFIG_FILE, revision)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{error} (A published LoRA adapter alone, without {CONFIG_FILE}, does not say what becomes of the "
                "last layer: use LoraHypernet.from_published, and state it.)"
            ) from error
        path = folder / CONFIG_FILE
        config = read_network_config(path, cls.kind)
        is_own = config[cls.kind] == class_path(cls)
        found = cls if is_own else import_named_in_file(config[cls.kind], Hypernet, path, trust_remote_code)
        if not issubclass(found, cls):
            raise ValueError(f"{pretrained} holds a {found.__name__}, not a {cls.__name__}.")
        hypernet = make_network(found, config["arguments"], path)
        hypernet._check_config(config, generator)
        check_base_weights(config["generator"], generator, path)
        hypernet.build(generator)
        with explain_missing(str(pretrained), revision):
            hypernet._load_weights(folder)
        return hypernet

    def load_same_kind(self, pretrained: str | Path, trust_remote_code: Sequence[str] = ()) -> "Hypernet":
        trusted = [*trust_remote_code, class_path(class_of(self))]
        return Hypernet.from_pretrained(pretrained, self.generator, None, trusted)

    def _check_config(self, config: Mapping[str, Any], generator: Generator) -> None:
        saved, backbone = config["generator"], generator.backbone_class
        if saved["backbone"] != backbone and None not in (saved["backbone"], backbone):
            raise ValueError(f"This hypernetwork is for a {saved['backbone']}, but the generator has a {backbone}.")
        # Without a digest nothing else tells whether these are the weights it was trained on.
        if saved["name"] != generator.name and not saved.get("digest") and not generator.is_meta:
            log.warning("The hypernetwork was trained for %s and is now used with %s.", saved["name"], generator.name)

    def _save_weights(self, folder: Path) -> None:
        state = {name: tensor.cpu().contiguous() for name, tensor in self.trainable_state_dict().items()}
        save_file(state, folder / self.weights_file)

    def _load_weights(self, folder: Path) -> None:
        path = folder / self.weights_file
        self.load_trainable_state_dict(require_finite(read_state_dict(path), path))
