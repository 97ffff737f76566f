"""The facts about each kind of pipeline; a family is named by its class path or found by its pipeline's class."""

from hn.generators.families.base import Family
from hn.utils.class_path import import_class

# Pipeline class, as in model_index.json -> family. Others are named in the configuration by class path.
DEFAULT_FAMILIES = {
    "StableDiffusionPipeline": "hn.generators.families.stable_diffusion.StableDiffusion",
    "LatentConsistencyModelPipeline": "hn.generators.families.stable_diffusion.LatentConsistency",
    "StableDiffusionXLPipeline": "hn.generators.families.stable_diffusion_xl.StableDiffusionXL",
    "SanaSprintPipeline": "hn.generators.families.sana.SanaSprint",
    "FluxPipeline": "hn.generators.families.flux.Flux",
    "PixArtAlphaPipeline": "hn.generators.families.pixart.PixArtAlpha",
    "StableDiffusion3Pipeline": "hn.generators.families.stable_diffusion_3.StableDiffusion3",
    "ZImagePipeline": "hn.generators.families.z_image.ZImage",
    "Flux2KleinPipeline": "hn.generators.families.flux2_klein.Flux2Klein",
    "QwenImagePipeline": "hn.generators.families.qwen_image.QwenImage",
}


def resolve_family(family: Family | str | None, pipeline_class: str) -> Family:
    """A family given as an instance, as a class path, or not at all: then the default one of `pipeline_class`.

    Raises:
        ValueError: if the path names no family, or the pipeline class has no default one.
    """
    if isinstance(family, Family):
        return family
    if family is None:
        if pipeline_class not in DEFAULT_FAMILIES:
            raise ValueError(
                f"No family is known for {pipeline_class}; known are {', '.join(DEFAULT_FAMILIES)}. "
                "Set `family` to the class path of a subclass of hn.generators.families.base.Family."
            )
        family = DEFAULT_FAMILIES[pipeline_class]
    return import_class(family, Family)()


__all__ = ["DEFAULT_FAMILIES", "Family", "resolve_family"]
