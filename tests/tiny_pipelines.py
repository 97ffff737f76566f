"""Tiny random pipelines of the real classes, one builder a family, and how a user would call each of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import diffusers
import transformers
from diffusers import DiffusionPipeline
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from hn.generators.families import Family
from hn.generators.families.flux2_klein import Flux2Klein
from hn.generators.families.sana import SanaSprint

WORDS = ("a", "above", "and", "ball", "blue", "cube", "green", "left", "of", "photo", "red", "the", "two", ",", ".")
WINDOW = 12  # tokens of CLIP, with start and end
CHAT = "{% for message in messages %}a photo of {{ message['content'] }}{% endfor %} ."


@dataclass(frozen=True)
class Case:
    """A family under test.

    Attributes:
        build: makes the pipeline, in float32.
        size: height and width of the images, in pixels; not square.
        call: what a user adds to `pipe(prompts, latents=..., num_inference_steps=..., height=..., width=...)`.
        calls_by_steps: what a user adds to that at some number of steps.
        family: the family's options, if not its own.
        difference: length of finite differences: enough that the float32 in some pipelines does not matter, little
            where everything is float64.
        draws: whether the scheduler draws noise in the steps after the first.
        places: number of places between them where gradients are taken; more where the function has kinks.
    """

    build: Callable[[], DiffusionPipeline]
    size: tuple[int, int] = (32, 48)
    call: dict[str, Any] = field(default_factory=dict)
    calls_by_steps: dict[int, dict[str, Any]] = field(default_factory=dict)
    family: Family | None = None
    difference: float = 2e-2
    draws: bool = False
    places: int = 6


def word_tokenizer(padding_side: str = "right", start: bool = False) -> PreTrainedTokenizerBase:
    """Splits at spaces; every word of WORDS is one token. Stands in for sentence-piece and byte-level tokenizers."""
    special = ["<pad>", "<eos>", "<unk>", "<bos>"]
    vocabulary = {word: i for i, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A" if start else "$A <eos>", special_tokens=[("<bos>", 3), ("<eos>", 1)]
    )
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>", "bos_token": "<bos>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, chat_template=CHAT, padding_side=padding_side, model_max_length=600, **names
    )


def clip_tokenizer() -> transformers.CLIPTokenizer:
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1}
    merges: dict[tuple[str, str], None] = {}
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        for piece in pieces:
            vocabulary.setdefault(piece, len(vocabulary))
        joined = pieces[0]
        for piece in pieces[1:]:
            merges[joined, piece] = None
            joined += piece
            vocabulary.setdefault(joined, len(vocabulary))
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=list(merges), model_max_length=WINDOW)


def clip_text(size: int, projected: bool = False) -> nn.Module:
    tokenizer = clip_tokenizer()
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=size,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=WINDOW,
        projection_dim=size,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return transformers.CLIPTextModelWithProjection(config) if projected else transformers.CLIPTextModel(config)


def t5(size: int) -> nn.Module:
    return transformers.T5EncoderModel(
        transformers.T5Config(vocab_size=32, d_model=size, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    )


def vae(channels: int, **options: Any) -> diffusers.AutoencoderKL:
    """Three levels: images are 4 times as large as latents."""
    autoencoder = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(4, 4, 8),
        latent_channels=channels,
        norm_num_groups=4,
        **{"scaling_factor": 0.7, **options},
    )
    dim(autoencoder.decoder.conv_out)
    return autoencoder


def dim(last_layer: nn.Module, factor: float = 0.4) -> None:
    """Keep images inside [0, 1]: where pixels are clamped, there is a kink and finite differences are of no use."""
    last_layer.weight.data.mul_(factor)


def unet(**options: Any) -> diffusers.UNet2DConditionModel:
    return diffusers.UNet2DConditionModel(
        **{
            "sample_size": 8,
            "in_channels": 4,
            "out_channels": 4,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "block_out_channels": (8, 16),
            "layers_per_block": 1,
            "cross_attention_dim": 12,
            "attention_head_dim": 4,
            "norm_num_groups": 4,
            **options,
        }
    )


BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def stable_diffusion(**unet_options: Any) -> DiffusionPipeline:
    return diffusers.StableDiffusionPipeline(
        vae=vae(4),
        text_encoder=clip_text(12),
        tokenizer=clip_tokenizer(),
        unet=unet(**unet_options),
        scheduler=diffusers.EulerDiscreteScheduler(timestep_spacing="trailing", **BETAS),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_lcm() -> DiffusionPipeline:
    pipe = stable_diffusion(time_cond_proj_dim=8)
    pipe.scheduler = diffusers.LCMScheduler(**BETAS)
    return pipe


def latent_consistency() -> DiffusionPipeline:
    pipe = stable_diffusion_lcm()
    return diffusers.LatentConsistencyModelPipeline(**pipe.components, requires_safety_checker=False)


def stable_diffusion_xl(**unet_options: Any) -> DiffusionPipeline:
    # SDXL-Turbo samples with the ancestral Euler scheduler, whose later steps draw noise.
    return diffusers.StableDiffusionXLPipeline(
        vae=vae(4),
        text_encoder=clip_text(8),
        text_encoder_2=clip_text(12, projected=True),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=unet(
            cross_attention_dim=20,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=12 + 6 * 4,
            use_linear_projection=True,
            transformer_layers_per_block=(1, 1),
            **unet_options,
        ),
        scheduler=diffusers.EulerAncestralDiscreteScheduler(timestep_spacing="trailing", **BETAS),
        add_watermarker=False,
    )


def stable_diffusion_xl_lcm() -> DiffusionPipeline:
    pipe = stable_diffusion_xl(time_cond_proj_dim=8)
    pipe.scheduler = diffusers.LCMScheduler(**BETAS)
    return pipe


def sana() -> DiffusionPipeline:
    autoencoder = diffusers.AutoencoderDC(
        latent_channels=4,
        attention_head_dim=4,
        encoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "ResBlock", "ResBlock"),  # no rectifiers: smooth enough to differentiate
        encoder_block_out_channels=(8, 8, 16),
        decoder_block_out_channels=(8, 8, 16),
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (), (5,)),
        decoder_qkv_multiscales=((), (), ()),
        upsample_block_type="interpolate",
        downsample_block_type="Conv",
        scaling_factor=0.41407,
    )
    dim(autoencoder.decoder.conv_out)
    text_encoder = transformers.Gemma2Model(
        transformers.Gemma2Config(
            vocab_size=32,
            hidden_size=24,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=4,
            max_position_embeddings=512,
        )
    )
    transformer = diffusers.SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=4,
        attention_head_dim=8,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=16,
        cross_attention_dim=32,
        caption_channels=24,
        sample_size=8,
        patch_size=1,
        guidance_embeds=True,
        qk_norm="rms_norm_across_heads",
        timestep_scale=1000.0,
    )
    return diffusers.SanaSprintPipeline(
        tokenizer=word_tokenizer(start=True),
        text_encoder=text_encoder,
        vae=autoencoder,
        transformer=transformer,
        scheduler=diffusers.SCMScheduler(),
    )


def flow_scheduler(**options: Any) -> diffusers.FlowMatchEulerDiscreteScheduler:
    return diffusers.FlowMatchEulerDiscreteScheduler(**options)


def flux() -> DiffusionPipeline:
    return diffusers.FluxPipeline(
        scheduler=flow_scheduler(),
        vae=vae(4, shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip_text(12),
        tokenizer=clip_tokenizer(),
        text_encoder_2=t5(20),
        tokenizer_2=word_tokenizer(),
        transformer=diffusers.FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=20,
            pooled_projection_dim=12,
            axes_dims_rope=(4, 4, 8),
        ),
    )


def stable_diffusion_3() -> DiffusionPipeline:
    return diffusers.StableDiffusion3Pipeline(
        transformer=diffusers.SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=20,
            caption_projection_dim=16,
            pooled_projection_dim=20,
            out_channels=4,
            pos_embed_max_size=16,
        ),
        scheduler=flow_scheduler(shift=3.0),
        vae=vae(4, shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip_text(8, projected=True),
        tokenizer=clip_tokenizer(),
        text_encoder_2=clip_text(12, projected=True),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5(20),
        tokenizer_3=word_tokenizer(),
    )


def pixart() -> DiffusionPipeline:
    return diffusers.PixArtAlphaPipeline(
        tokenizer=word_tokenizer(),
        text_encoder=t5(20),
        vae=vae(4),
        transformer=diffusers.PixArtTransformer2DModel(
            sample_size=8,
            num_layers=2,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=2,
            caption_channels=20,
            cross_attention_dim=16,
            in_channels=4,
            out_channels=8,
        ),
        scheduler=diffusers.DDPMScheduler(beta_start=0.0001, beta_end=0.02),
    )


def qwen3(layers: int = 3) -> nn.Module:
    return transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(
            vocab_size=32,
            hidden_size=12,
            intermediate_size=16,
            num_hidden_layers=layers,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=6,
            max_position_embeddings=600,
        )
    )


def z_image() -> DiffusionPipeline:
    transformer = diffusers.ZImageTransformer2DModel(
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=4,
        dim=16,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=12,
        axes_dims=[2, 2, 4],
        axes_lens=[640, 64, 64],
    )
    # Left uninitialised by the class; checkpoints bring their own.
    nn.init.normal_(transformer.x_pad_token)
    nn.init.normal_(transformer.cap_pad_token)
    return diffusers.ZImagePipeline(
        scheduler=flow_scheduler(shift=3.0),
        vae=vae(4, shift_factor=0.1),
        text_encoder=qwen3().model,
        tokenizer=word_tokenizer(),
        transformer=transformer,
    )


def flux2_klein(text_layers: Sequence[int] = (1, 2)) -> DiffusionPipeline:
    autoencoder = diffusers.AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(4, 4, 8),
        latent_channels=4,
        norm_num_groups=4,
    )
    dim(autoencoder.decoder.conv_out)
    autoencoder.bn.running_mean.normal_(std=0.1)
    return diffusers.Flux2KleinPipeline(
        scheduler=flow_scheduler(shift=3.0, use_dynamic_shifting=True),
        vae=autoencoder,
        text_encoder=qwen3(max(text_layers) + 1),
        tokenizer=word_tokenizer(),
        transformer=diffusers.Flux2Transformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=12 * len(text_layers),
            timestep_guidance_channels=16,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        ),
        is_distilled=True,
    )


def qwen_image() -> DiffusionPipeline:
    autoencoder = diffusers.AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 2],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.1, -0.1, 0.2, 0.0],
        latents_std=[1.3, 0.9, 1.1, 1.2],
    )
    text_encoder = transformers.Qwen2_5_VLForConditionalGeneration(
        transformers.Qwen2_5_VLConfig(
            text_config={
                "vocab_size": 32,
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
                "rope_theta": 1000000.0,
            },
            vision_config={
                "depth": 1,
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_heads": 2,
                "out_hidden_size": 16,
            },
        )
    )
    return diffusers.QwenImagePipeline(
        scheduler=flow_scheduler(use_dynamic_shifting=True, base_shift=1.0986, max_shift=1.0986),
        vae=autoencoder,
        text_encoder=text_encoder,
        tokenizer=word_tokenizer(),
        transformer=diffusers.QwenImageTransformer2DModel(
            patch_size=2,
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            axes_dims_rope=(4, 4, 8),
        ),
    )


CASES = {
    "stable_diffusion": Case(stable_diffusion, call={"guidance_scale": 0.0}),
    "stable_diffusion_lcm": Case(stable_diffusion_lcm, call={"guidance_scale": 8.0}, difference=1e-4, draws=True),
    "latent_consistency": Case(latent_consistency, call={"guidance_scale": 8.0}, difference=1e-4, draws=True),
    "stable_diffusion_xl": Case(stable_diffusion_xl, call={"guidance_scale": 0.0}, draws=True),
    "stable_diffusion_xl_lcm": Case(stable_diffusion_xl_lcm, call={"guidance_scale": 8.0}, difference=1e-4, draws=True),
    "sana": Case(
        sana,
        size=(32, 64),
        call={"intermediate_timesteps": None, "use_resolution_binning": False, "max_sequence_length": 16},
        calls_by_steps={2: {"intermediate_timesteps": 1.3}},
        family=SanaSprint(max_sequence_length=16),
        difference=5e-2,
        draws=True,
        places=24,
    ),
    "flux": Case(flux, call={"max_sequence_length": 256}),
    "pixart": Case(
        pixart,
        call={"guidance_scale": 1.0, "use_resolution_binning": False},
        calls_by_steps={1: {"timesteps": [400]}},
        difference=1e-5,
        draws=True,
    ),
    "stable_diffusion_3": Case(stable_diffusion_3, call={"guidance_scale": 0.0}),
    "z_image": Case(z_image, call={"guidance_scale": 0.0}),
    "flux2_klein": Case(
        flux2_klein,
        call={"guidance_scale": 1.0, "text_encoder_out_layers": (1, 2), "max_sequence_length": 16},
        family=Flux2Klein(text_layers=(1, 2), max_sequence_length=16),
    ),
    "qwen_image": Case(qwen_image, call={"true_cfg_scale": 1.0}),
}
NETWORKS = [name for name in CASES if not name.endswith("_lcm")]
"""Cases whose networks differ. The others differ in scheduler and guidance, which files and encoders do not see."""
