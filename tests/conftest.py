"""Tiny random models of the real classes, written to disk once per session, and paths to parity fixtures."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from hn.generators import DiffusersGenerator

WORDS = ("a", "above", "and", "ball", "blue", "cube", "green", "left", "of", "photo", "red", "the", "two", ",", ".")
WINDOW = 12  # tokens, with start and end
CLIP_MEAN, CLIP_STD = (0.5, 0.4, 0.3), (0.25, 0.3, 0.35)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """One thread: exact comparisons must not depend on how a sum is split."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """Parity fixtures kept in this repository."""
    return Path(__file__).parent / "fixtures"


@pytest.fixture(scope="session")
def shared_fixtures() -> Path:
    """Parity fixtures too large for this repository, beside a checkout of it."""
    folder = Path(__file__).parents[2] / "shared" / "fixtures"
    if not folder.is_dir():
        pytest.skip(f"the larger parity fixtures are not at {folder}")
    return folder


@pytest.fixture(scope="session")
def tiny_tokenizer() -> CLIPTokenizer:
    """Each of WORDS is one token, built from its letters from left to right; letters are tokens as well."""
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
    return CLIPTokenizer(vocab=vocabulary, merges=list(merges), model_max_length=WINDOW)


@pytest.fixture(scope="session")
def tiny_pipeline_folder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: CLIPTokenizer) -> Path:
    """A StableDiffusionPipeline like the miniature's: 32 x 32 images, 8 x 8 x 8 latents, DDIM, zero terminal SNR."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=8,
            out_channels=8,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            block_out_channels=(8, 16),
            layers_per_block=1,
            cross_attention_dim=12,
            attention_head_dim=4,
            norm_num_groups=4,
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(4, 4, 8),
            latent_channels=8,
            norm_num_groups=4,
            sample_size=32,
            scaling_factor=0.7,
        )
        # Random decoders paint grey; a livelier last layer makes colours, and some pixels that are clamped.
        vae.decoder.conv_out.weight.data.mul_(4)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tiny_tokenizer),
                hidden_size=12,
                intermediate_size=24,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=WINDOW,
                **_special_tokens(tiny_tokenizer),
            )
        )
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tiny_tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    folder = tmp_path_factory.mktemp("pipeline")
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_clip_folder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: CLIPTokenizer) -> Path:
    """A CLIPModel of 32 x 32 images with its tokenizer and a preprocessor of its own mean and std."""
    special = _special_tokens(tiny_tokenizer)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**size, **special, "vocab_size": len(tiny_tokenizer), "max_position_embeddings": WINDOW}
    vision = {**size, "image_size": 32, "patch_size": 8}
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12, **special))
    folder = tmp_path_factory.mktemp("clip")
    model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    CLIPImageProcessor(image_mean=list(CLIP_MEAN), image_std=list(CLIP_STD)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_generator(tiny_pipeline_folder: Path) -> Callable[..., DiffusersGenerator]:
    """Loads the tiny pipeline, with the options given."""
    return lambda **options: DiffusersGenerator(str(tiny_pipeline_folder), **options)


@pytest.fixture(scope="session")
def generator(make_generator: Callable[..., DiffusersGenerator]) -> DiffusersGenerator:
    """The tiny generator in float32, shared: tests leave it as it is."""
    return make_generator()


@pytest.fixture(scope="session")
def stock_pipeline(tiny_pipeline_folder: Path) -> StableDiffusionPipeline:
    """The tiny pipeline as a user of diffusers loads it."""
    pipe = StableDiffusionPipeline.from_pretrained(tiny_pipeline_folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _special_tokens(tokenizer: CLIPTokenizer) -> dict[str, int]:
    return {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
