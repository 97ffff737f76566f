"""What a noise hypernetwork and a fine-tune have in common: bound to a frozen generator, trained, saved."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Self

import torch
from huggingface_hub import HfApi
from torch import Tensor

import hn
from hn.generators.base import Conditioning, Generator
from hn.generators.bound import BoundToGenerator
from hn.hypernets.network_config import VERSION
from hn.hypernets.saving import CARD_FILE, describe_base, model_card
from hn.hypernets.weights import load_trainable_state_dict, trainable_state_dict
from hn.utils.class_path import class_path
from hn.utils.files import atomic_folder, write_json


class Trainable(BoundToGenerator, ABC):
    """A network trained on top of a frozen generator: it changes the noise (a hypernetwork) or the backbone (a
    fine-tune).

    It is described without a generator, so that a configuration file can, and bound to one by `build`. Called with
    noise x0 ~ N(0, I), [B, *noise_shape], and the conditioning of B prompts, it returns the perturbation f of that
    shape; `image_generator` makes images of x0 + f.

    Attributes:
        kind: "hypernet" or "finetune"; `<kind>_config.json` says which generator it is for.
        method: its name in results and checkpoints.
        extra_nfe: forward passes of a backbone that f takes for one image, beside those of the sampling steps.
    """

    kind: ClassVar[str]
    method: ClassVar[str]
    extra_nfe: ClassVar[int]

    def build(self, generator: Generator) -> Self:
        """Make the weights, for this generator. Called once.

        Raises:
            RuntimeError: if called again.
            ValueError: if the network's options do not fit the generator.
        """
        if self._built_on:
            raise RuntimeError(f"{type(self).__name__} is already bound to a generator; make another one.")
        self._build(generator)
        self._built_on = (generator,)
        return self

    @abstractmethod
    def _build(self, generator: Generator) -> None: ...

    @property
    @abstractmethod
    def image_generator(self) -> Generator:
        """The generator that makes the images: the frozen one, or one that a fine-tune changed."""

    @abstractmethod
    def noise_kl(self, f: Tensor) -> Tensor | None:
        """Cost [B] in nats of f [B, *noise_shape] in noise space; None if the network does not change the noise."""

    def images(
        self,
        noise: Tensor,
        conditioning: Conditioning,
        steps: int | None = None,
        rng: torch.Generator | list[torch.Generator] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Images and f, both differentiable in the trainable weights.

        Args:
            noise: [B, *noise_shape] ~ N(0, I).
            conditioning: of B prompts.
            steps: sampling steps; the generator's own number if not given.
            rng: source of the noise that some schedulers draw after the first step, or one for each sample.

        Returns:
            Images [B, 3, H, W] in [0, 1] and f [B, *noise_shape].
        """
        f = self(noise, conditioning)
        return self.image_generator.generate(noise + f, conditioning, steps, rng), f

    @abstractmethod
    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON has them."""

    def trainable_state_dict(self) -> dict[str, Tensor]:
        """The trained weights by parameter name, whole: all that has to be kept beside the generator.

        All processes that share them (FSDP2) must call this.
        """
        return trainable_state_dict(self)

    def load_trainable_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copy in what `trainable_state_dict` gave.

        Raises:
            ValueError: if a weight is missing or unexpected or has another shape; nothing is changed then.
        """
        load_trainable_state_dict(self, state)

    @abstractmethod
    def load_same_kind(self, pretrained: str | Path, trust_remote_code: Sequence[str] = ()) -> Trainable:
        """Saved weights of the same kind (hypernetwork or fine-tune), with their own class and options, bound to this
        network's generator. This network's class is trusted.

        Raises:
            FileNotFoundError, ValueError: as the kind's `from_pretrained`.
        """

    @abstractmethod
    def _save_weights(self, folder: Path) -> None: ...

    def _config(self) -> dict[str, Any]:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return {
            "version": VERSION,
            self.kind: class_path(type(self)),
            "arguments": self.arguments(),
            "parameters": sum(parameter.numel() for parameter in trained),
            "bytes": sum(parameter.numel() * parameter.element_size() for parameter in trained),
            "backbone_passes": self.extra_nfe,
            "generator": describe_base(self.generator),
            "versions": {
                "hn": hn.__version__,
                **{package: version(package) for package in ("torch", "diffusers", "peft")},
            },
        }

    def save_pretrained(
        self,
        folder: str | Path,
        training: Mapping[str, Any] | None = None,
        name: str | None = None,
        write: bool = True,
    ) -> None:
        """Write weights, `<kind>_config.json` and a model card to `folder`; `from_pretrained` gives it back exactly.

        Args:
            folder: made if it does not exist; other files in it stay. Nothing in it changes if saving fails.
            training: how it was trained (plain values, lists and dictionaries), for the model card.
            name: what the model card calls it, the folder if not given.
            write: whether this process writes. Where several share the weights (FSDP2), all of them must call this, so
                that the weights can be gathered, and one of them writes.

        Raises:
            RuntimeError: if it has no weights yet.
        """
        config, folder = self._config(), Path(folder)
        if not write:
            self.trainable_state_dict()
            return
        card = model_card(config, str(folder) if name is None else name, training)
        with atomic_folder(folder, keep_others=True, durable=True) as temporary:
            self._save_weights(temporary)
            write_json(temporary / f"{self.kind}_config.json", config)
            (temporary / CARD_FILE).write_text(card, encoding="utf-8")

    def push_to_hub(
        self,
        repo_id: str,
        training: Mapping[str, Any] | None = None,
        private: bool | None = None,
        commit_message: str | None = None,
        token: str | None = None,
    ) -> str:
        """Save to a repository on the Hugging Face Hub, made if it does not exist.

        Args:
            repo_id: `owner/name`.
            training: as for `save_pretrained`.
            private: whether a new repository is private; the owner's default if not given.
            commit_message: of the one commit.
            token: the one of `hf auth login` if not given.

        Returns:
            The commit's address.
        """
        hub, message = HfApi(token=token), commit_message or f"Upload {type(self).__name__}"
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, training, name=repo_id)
            hub.create_repo(repo_id, private=private, exist_ok=True)
            return hub.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message).commit_url
