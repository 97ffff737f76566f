"""The README.md beside a saved hypernetwork, which the Hugging Face Hub shows as its model card."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCardData
from huggingface_hub.utils import HFValidationError, validate_repo_id

CARD = """\
---
{metadata}
---

# {name}

A noise hypernetwork ([arXiv 2508.09968](https://arxiv.org/abs/2508.09968)) for `{base}`: it moves the initial noise of
that frozen few-step generator, x0 -> x0 + f(x0, prompt), so that its images score higher on a reward. It is no
fine-tune: the generator stays as it is.

## Use

```python
from hn.generators import DiffusersGenerator
from hn.hypernets import Hypernet

generator = DiffusersGenerator("{base}"{revision})
hypernet = Hypernet.from_pretrained("{name}", generator)
latents = hypernet.modulate(generator.sample_noise(1), generator.encode(["a prompt"]))
```

`generator.generate(latents, generator.encode(["a prompt"]))` makes the image; `latents` are also what a stock diffusers
pipeline of these weights takes: `pipe("a prompt", latents=latents)`.
{last_layer}
## What it is

```yaml
{config}
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
        config: `hypernet_config.json`.
        name: of the folder or repository.
        training: how it was trained, as YAML has it; shown as it is.
    """
    base, revision = config["generator"]["name"], config["generator"]["revision"]
    metadata = ModelCardData(
        base_model=base if _is_hub_id(base) else None,
        library_name="hn",
        pipeline_tag="text-to-image",
        tags=["noise-hypernetwork"],
    )
    rule = config.get("last_layer_rule")
    layer = config["arguments"].get("last_layer")
    card = CARD.format(
        metadata=metadata.to_yaml(),
        name=name,
        base=base,
        revision="" if revision is None else f', revision="{revision}"',
        last_layer=LAST_LAYER.format(rule=rule, layer=layer) if rule else "",
        config=_yaml(config),
    )
    return card + (f"\n## Training\n\n```yaml\n{_yaml(training)}\n```\n" if training else "")


def _is_hub_id(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name and not Path(name).exists()


def _yaml(content: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(content), sort_keys=False).rstrip()
