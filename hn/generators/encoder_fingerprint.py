"""What decides how a pipeline encodes prompts: by this, files of conditioning are known to be right or stale."""

from typing import Any

from diffusers import DiffusionPipeline

from hn.data.encodings.fingerprint import plain, version
from hn.generators.families import Family
from hn.generators.pipeline_files import PipelineFiles
from hn.utils.class_path import class_path


def encoder_fingerprint(files: PipelineFiles, family: Family) -> dict[str, Any]:
    """All on which a prompt's conditioning depends, in JSON's types.

    Where the weights come from is a commit on the Hub, or for a folder what is in it: a copy elsewhere is the same, a
    change of a tokenizer's file or of the text encoder's weights is not. LoRAs that are fused count whatever networks
    they are for. Networks in the place of the pipeline's own do not: text encoders cannot be replaced.

    Args:
        files: the pipeline's.
        family: the pipeline's facts.
    """
    parts = files.text_parts(family)
    return {
        "class": files.index["_class_name"],
        "weights": version(files.pretrained, files.found, files.revision, DiffusionPipeline.config_name, parts),
        "variant": files.variant,
        "dtype": str(files.dtype).removeprefix("torch."),
        "family": class_path(type(family)),
        "options": plain(family.encoding_settings()),
        "fused_loras": [
            {
                "weights": version(lora.pretrained, lora.locate(), lora.revision, lora.file, [lora.file]),
                "file": lora.file,
                "scale": lora.scale,
            }
            for lora in files.fuse_loras
        ],
    }
