"""Whatever was trained on top of a generator, loaded by looking at its files."""

from collections.abc import Sequence

from hn.generators.base import Generator
from hn.hypernets.adapter_files import WEIGHTS_FILES
from hn.hypernets.base import CONFIG_FILE, Hypernet
from hn.hypernets.finetune import BASE_FILE, LoraFinetune
from hn.hypernets.lora import LoraHypernet
from hn.hypernets.trainable import Trainable
from hn.utils.hub import locate_folder

TRAINED_FILES = (CONFIG_FILE, BASE_FILE, *WEIGHTS_FILES)
"""A folder of a hypernetwork or a fine-tune has one of them; with one of the first two it says which it is."""


def load_trained(
    pretrained: str,
    generator: Generator,
    revision: str | None = None,
    last_layer_rule: str | None = None,
    alpha: float | None = None,
    trust_remote_code: Sequence[str] = (),
) -> Trainable:
    """A hypernetwork or fine-tune, bound to `generator`.

    Args:
        pretrained: folder or Hub id of a hypernetwork or a fine-tune that hn saved, or of a published LoRA adapter.
        generator: the generator it was trained for; one without weights (`build_on_meta`) will do, under
            `torch.device("meta")`, to see whether it fits in its layers and shapes.
        revision: branch, tag or commit on the Hub.
        last_layer_rule: for a published adapter, which does not say: what becomes of the last layer.
        alpha: for a published adapter that does not say.
        trust_remote_code: class paths of hypernetworks, not of hn, that its files may name.

    Raises:
        FileNotFoundError: if there is no such thing.
        ValueError: if it is of a class that is not trusted, its files are damaged, it does not fit the generator, was
            trained on other base weights, is a published adapter of which too little is stated, or is none although
            rule or alpha are stated.
    """
    patterns = ("*.json", *WEIGHTS_FILES, Hypernet.weights_file)
    folder = locate_folder(pretrained, TRAINED_FILES, revision, patterns)
    saved = next((name for name in (CONFIG_FILE, BASE_FILE) if (folder / name).is_file()), None)
    if saved is None:
        return LoraHypernet.from_published(
            pretrained, generator, last_layer_rule=last_layer_rule, alpha=alpha, revision=revision
        )
    if last_layer_rule is not None or alpha is not None:
        raise ValueError(
            f"{pretrained} has a {saved}, which says all that is needed; last_layer_rule and alpha are for published "
            "adapters without one. Leave them out."
        )
    if saved == CONFIG_FILE:
        return Hypernet.from_pretrained(pretrained, generator, revision, trust_remote_code)
    return LoraFinetune.from_pretrained(pretrained, generator, revision)
