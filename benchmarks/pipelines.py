"""The pipelines that benchmarks on a CPU run: the committed miniature, and a small one of SANA-Sprint's classes.

Neither says what full-size weights would give (`benchmarks.full_size`).
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from benchmarks.miniature import CHECKPOINTS


@contextmanager
def pipelines() -> Iterator[dict[str, tuple[Path, dict[str, Any]]]]:
    """Folders by name, "miniature" and "sana", and what else `DiffusersGenerator` is given, while the context lasts."""
    miniature = CHECKPOINTS / "pipeline"
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        write_sana(Path(folder), miniature / "tokenizer")
        yield {"miniature": (miniature, {}), "sana": (Path(folder), {"height": 32, "width": 32})}


def write_sana(folder: Path, tokenizer: Path) -> None:
    """A random pipeline of SANA-Sprint's classes, small."""
    words = transformers.AutoTokenizer.from_pretrained(tokenizer, model_max_length=1024)
    text_encoder = transformers.Gemma2Model(
        transformers.Gemma2Config(
            vocab_size=len(words),
            hidden_size=256,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=64,
            max_position_embeddings=2048,
        )
    )
    transformer = diffusers.SanaTransformer2DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=4,
        attention_head_dim=32,
        num_layers=4,
        num_cross_attention_heads=4,
        cross_attention_head_dim=32,
        cross_attention_dim=128,
        caption_channels=256,
        sample_size=8,
        patch_size=1,
        guidance_embeds=True,
        qk_norm="rms_norm_across_heads",
        timestep_scale=1000.0,
    )
    autoencoder = diffusers.AutoencoderDC(
        latent_channels=8,
        attention_head_dim=8,
        encoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(16, 16, 32),
        decoder_block_out_channels=(16, 16, 32),
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (), (5,)),
        decoder_qkv_multiscales=((), (), (5,)),
        upsample_block_type="interpolate",
        downsample_block_type="Conv",
    )
    diffusers.SanaSprintPipeline(
        words, text_encoder, autoencoder, transformer, diffusers.SCMScheduler()
    ).save_pretrained(folder)
