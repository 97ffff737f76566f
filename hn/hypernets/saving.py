"""What is saved beside trained weights: a description of the generator, a digest of its weights, and a model card."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCardData
from huggingface_hub.utils import HFValidationError, validate_repo_id

from hn.generators.base import Generator
from hn.generators.onnx import OnnxGenerator
from hn.generators.pipeline import DiffusersGenerator
from hn.generators.pipeline_generator import PipelineGenerator
from hn.utils.class_path import class_path
from hn.utils.distributed import class_of


def describe_base(generator: Generator) -> dict[str, Any]:
    """The generator as the saved configuration has it, with the class of its backbone and the digest of its weights."""
    return {
        "class": class_path(class_of(generator)),
        "name": generator.name,
        "revision": generator.revision,
        "backbone": generator.backbone_class,
        "noise_shape": list(generator.noise_shape),
        "digest": generator.digest(),
    }


def check_base_weights(base: Mapping[str, Any], generator: Generator, path: Path) -> None:
    """Refuse a generator whose backbone has other weights than what is loaded was trained on.

    Args:
        base: what `describe_base` gave when it was saved. Without a digest nothing is compared.
        generator: the generator it is loaded for; of one without weights or digest nothing is compared either.
        path: of the file that `base` is from, for the message.

    Raises:
        ValueError: if neither digest is that of the generator's backbone.
    """
    recorded = base.get("digest")
    if not recorded or generator.is_meta:
        return
    found = generator.digest()
    if found and not any(recorded.get(dtype) == digest for dtype, digest in found.items()):
        raise ValueError(
            f"{path.parent} was trained on other base weights than those of {generator.name} (of the same class, "
            f"{generator.backbone_class}): what it learned does not fit them. Load the generator it was "
            f"trained for ({base.get('name')}, revision {base.get('revision')}, with the same components and fused "
            "LoRAs), or train it again on this one. If you know that the weights are the same and only rounded "
            f'otherwise (trained in float16 and used in bfloat16, say), delete "digest" from {path}.'
        )


CARD_FILE = "README.md"

PIPELINES = (class_path(DiffusersGenerator), class_path(PipelineGenerator))
"""Generators that a `DiffusersGenerator` loads."""

EXPORTED = class_path(OnnxGenerator)

CARD = """\
---
{metadata}
---

# {name}

{body}
## What it is

```yaml
{config}
```
"""

HYPERNET = """\
A noise hypernetwork ([arXiv 2508.09968](https://arxiv.org/abs/2508.09968)) for `{base}`: it moves the initial noise of
that frozen few-step generator, x0 -> x0 + f(x0, prompt), so that its images score higher on a reward. It is no
fine-tune: the generator stays as it is.

{size}

## Use

```python
{loading}
from hn.hypernets import Hypernet

generator = {generator}
hypernet = Hypernet.from_pretrained("{name}", generator)
latents = hypernet.latents("a prompt", seed=0)
```

`generator.generate(latents, generator.encode(["a prompt"]))` makes the image. {more}
"""

IN_A_PIPELINE = """\
`latents` are also what a stock diffusers pipeline
of these weights takes: `pipe("a prompt", latents=latents)`.\
"""

BY_COMMAND = """
`hn generate --generator {base} --hypernet {name} --prompt "a prompt"` writes images.\
"""

WITH_BACKBONE = """\
f has {parameters:,} parameters ({megabytes:.3g} MB) and takes one pass of a backbone for an image.\
"""

WITHOUT_BACKBONE = """\
f is a `{network}` of {parameters:,} parameters ({megabytes:.3g} MB). It reads the noise and the generator's
text states, and needs no pass of the backbone.\
"""

FINETUNE = """\
`{base}`, fine-tuned with LoRA on a reward. It is the method that noise hypernetworks
([arXiv 2508.09968](https://arxiv.org/abs/2508.09968)) are compared with, and a plain PEFT adapter.

## Use

```python
{loading}
from hn.hypernets import LoraFinetune

generator = {generator}
finetune = LoraFinetune.from_pretrained("{name}", generator)
image, _ = finetune.images(generator.sample_noise(1), generator.encode(["a prompt"]))
```
"""

LAST_LAYER = """
## Last layer

The rule is `{rule}`: in `{layer}` the base output is dropped and the LoRA branch alone is f. PEFT's files cannot say
so: a plain `load_lora_weights` of them gives another function.
"""


def model_card(config: Mapping[str, Any], name: str, training: Mapping[str, Any] | None = None) -> str:
    """The card's text.

    Args:
        config: `hypernet_config.json` or `finetune_config.json`.
        name: of the folder or repository.
        training: how it was trained, as YAML has it; shown as it is.
    """
    base, is_finetune = config["generator"]["name"], "finetune" in config
    is_pipeline = config["generator"]["class"] in PIPELINES
    metadata = ModelCardData(
        base_model=base if is_pipeline and _is_hub_id(base) else None,
        library_name="hn",
        pipeline_tag="text-to-image",
        tags=["lora"] if is_finetune else ["noise-hypernetwork"],
    )
    loading, generator = _loading(config["generator"])
    parts = {"base": base, "name": name, "loading": loading, "generator": generator}
    if is_finetune:
        body = FINETUNE.format(**parts)
    else:
        more = IN_A_PIPELINE if is_pipeline else ""
        more += BY_COMMAND.format(**parts) if is_pipeline or config["generator"]["class"] == EXPORTED else ""
        body = HYPERNET.format(**parts, size=_size(config), more=more.strip())
    if config.get("last_layer_rule"):
        body += LAST_LAYER.format(rule=config["last_layer_rule"], layer=config["arguments"].get("last_layer"))
    card = CARD.format(metadata=metadata.to_yaml(), name=name, body=body, config=_yaml(config))
    return card + (f"\n## Training\n\n```yaml\n{_yaml(training)}\n```\n" if training else "")


def _size(config: Mapping[str, Any]) -> str:
    """What f is made of and what it takes."""
    facts = {"parameters": config["parameters"], "megabytes": config["bytes"] / 1e6}
    if config["backbone_passes"]:
        return WITH_BACKBONE.format(**facts)
    return WITHOUT_BACKBONE.format(network=config["hypernet"].rpartition(".")[2], **facts)


def _loading(generator: Mapping[str, Any]) -> tuple[str, str]:
    """Lines of Python that import and make a generator, from its saved description."""
    module, _, name = generator["class"].rpartition(".")
    if generator["class"] in PIPELINES:
        revision = generator["revision"]
        argument = f'"{generator["name"]}"' + ("" if revision is None else f', revision="{revision}"')
        return "from hn.generators import DiffusersGenerator", f"DiffusersGenerator({argument})"
    if generator["class"] == EXPORTED:
        return f"from {module} import {name}", f'{name}("{generator["name"]}")'
    return f"from {module} import {name}", f"{name}(...)  # with the arguments that it was trained with"


def _is_hub_id(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name and not Path(name).exists()


def _yaml(content: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(content), sort_keys=False).rstrip()
