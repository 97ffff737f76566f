"""What a hypernetwork and a fine-tune have in common when they are saved: weights, a configuration, a model card."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from huggingface_hub import HfApi
from torch import Tensor

import hn
from hn.class_path import class_path
from hn.generators.base import Generator
from hn.hypernets.base_weights import describe_base
from hn.hypernets.model_card import CARD_FILE, model_card


class Saved(ABC):
    """Something trained on top of a generator, with `save_pretrained` and `push_to_hub`.

    Attributes:
        kind: what it is, "hypernet" or "finetune"; `<kind>_config.json` says which generator it is for.
        generator: the one it was trained for.
    """

    kind: ClassVar[str]
    generator: Generator

    @abstractmethod
    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON has them."""

    @abstractmethod
    def trainable_state_dict(self) -> dict[str, Tensor]:
        """The trained weights by parameter name, whole; all processes that share them must call this."""

    @abstractmethod
    def _save_weights(self, folder: Path) -> None: ...

    def _config(self) -> dict[str, Any]:
        return {
            self.kind: class_path(type(self)),
            "arguments": self.arguments(),
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
            folder: made if it does not exist.
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
        folder.mkdir(parents=True, exist_ok=True)
        self._save_weights(folder)
        (folder / f"{self.kind}_config.json").write_text(json.dumps(config, indent=2) + "\n")
        (folder / CARD_FILE).write_text(model_card(config, str(folder) if name is None else name, training))

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
