"""The README.md beside a saved hypernetwork or fine-tune, which the Hugging Face Hub shows as its model card."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCardData
from huggingface_hub.utils import HFValidationError, validate_repo_id

CARD_FILE = "README.md"

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

## Use

```python
from hn.generators import DiffusersGenerator
from hn.hypernets import Hypernet

generator = DiffusersGenerator("{base}"{revision})
hypernet = Hypernet.from_pretrained("{name}", generator)
latents = hypernet.latents("a prompt", seed=0)
```

`generator.generate(latents, generator.encode(["a prompt"]))` makes the image; `latents` are also what a stock diffusers
pipeline of these weights takes: `pipe("a prompt", latents=latents)`.
"""

FINETUNE = """\
`{base}`, fine-tuned with LoRA on a reward. It is the method that noise hypernetworks
([arXiv 2508.09968](https://arxiv.org/abs/2508.09968)) are compared with, and a plain PEFT adapter.

## Use

```python
from hn.generators import DiffusersGenerator
from hn.hypernets import LoraFinetune

generator = DiffusersGenerator("{base}"{revision})
_, tuned = LoraFinetune.from_pretrained("{name}", generator)
image = tuned.generate(tuned.sample_noise(1), tuned.encode(["a prompt"]))
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
    base, revision = config["generator"]["name"], config["generator"]["revision"]
    is_finetune = "finetune" in config
    metadata = ModelCardData(
        base_model=base if _is_hub_id(base) else None,
        library_name="hn",
        pipeline_tag="text-to-image",
        tags=["lora"] if is_finetune else ["noise-hypernetwork"],
    )
    body = (FINETUNE if is_finetune else HYPERNET).format(
        base=base, name=name, revision="" if revision is None else f', revision="{revision}"'
    )
    if config.get("last_layer_rule"):
        body += LAST_LAYER.format(rule=config["last_layer_rule"], layer=config["arguments"].get("last_layer"))
    card = CARD.format(metadata=metadata.to_yaml(), name=name, body=body, config=_yaml(config))
    return card + (f"\n## Training\n\n```yaml\n{_yaml(training)}\n```\n" if training else "")


def _is_hub_id(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name and not Path(name).exists()


def _yaml(content: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(content), sort_keys=False).rstrip()
