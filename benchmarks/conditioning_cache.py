"""A training step with prompts encoded every time, once (in memory), and read from files; memory with and without.

    python -m benchmarks.conditioning_cache [--device cuda] [--rounds 10]

Measured side by side in one process, the ways taking turns. It prints JSON: the median seconds of a step, ratios to
encoding every time, and the bytes of the generator's weights; on CUDA also what a step takes at its peak, beside all
weights. The miniature is the committed one; "sana" has SANA-Sprint's classes, small, and its text encoder reads the
pipeline's own instruction before every prompt. Neither says what full-size weights would give.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import Tensor

from hn.data import read_prompts
from hn.device import find_device
from hn.embed import embed_prompts
from hn.generators import DiffusersGenerator
from hn.hypernets import LoraHypernet
from hn.rewards import RednessReward

ROOT = Path(__file__).parents[1]
WAYS = {"every_time": {"prompt_cache_size": 0}, "once_in_memory": {}, "files": {"prompt_cache_size": 0}}
"""How prompts are encoded; from files each of them is read anew at every step."""


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


def training_step(generator: DiffusersGenerator, prompts: list[str]) -> Callable[[], Tensor]:
    """Noise, conditioning, f, image, reward and gradients; the same for all ways of encoding."""
    torch.manual_seed(0)
    hypernet = LoraHypernet(rank=8).build(generator).to(generator.device)
    noise, reward = generator.sample_noise(len(prompts)), RednessReward()

    def step() -> Tensor:
        conditioning = generator.encode(prompts)
        f = hypernet(noise, conditioning)
        images = generator.generate(noise + f, conditioning, rng=torch.Generator().manual_seed(0))
        loss = 0.5 * f.square().mean() - reward(images, prompts).mean()
        loss.backward()
        hypernet.zero_grad()
        return loss.detach()

    return step


def measure(folder: Path, prompts: list[str], device: torch.device, rounds: int, **options: Any) -> dict[str, Any]:
    """Seconds, ratios and bytes of the pipeline in a folder."""
    with tempfile.TemporaryDirectory() as cache:
        embed_prompts(DiffusersGenerator.outline(str(folder), cache=cache, **options), prompts, device)
        found: dict[str, Any] = {}
        steps, times, losses = {}, {way: [] for way in WAYS}, {}
        for way, own in WAYS.items():
            own = own | ({"cache": cache} if way == "files" else {})
            generator = DiffusersGenerator(str(folder), **own, **options).to(device)
            weights = sum(p.numel() * p.element_size() for p in generator.parameters())
            steps[way] = training_step(generator, prompts)
            losses[way] = steps[way]().item()  # warm: caches filled, kernels chosen
            found[way] = {"weights_bytes": weights}
            if device.type == "cuda":
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
                steps[way]()
                found[way]["step_peak_bytes"] = torch.cuda.max_memory_allocated() - before
        for _ in range(rounds):
            for way, step in steps.items():  # in turns, so that what else the machine does hits all of them
                started = time.perf_counter()
                losses[way] = step().item()
                times[way].append(time.perf_counter() - started)
    seconds = {way: statistics.median(values) for way, values in times.items()}
    for way in WAYS:
        found[way] |= {"seconds": seconds[way], "ratio": seconds[way] / seconds["every_time"], "loss": losses[way]}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--batch_size", type=int, default=8)
    options = parser.parse_args()
    device = find_device(options.device)
    miniature = ROOT / "data" / "miniature" / "pipeline"
    prompts = [row["prompt"] for row in read_prompts(ROOT / "data" / "prompts" / "miniature" / "train.jsonl")]
    prompts = list(dict.fromkeys(prompts))[: options.batch_size]
    results: dict[str, Any] = {"device": str(device), "threads": torch.get_num_threads(), "prompts": len(prompts)}
    results["miniature"] = measure(miniature, prompts, device, options.rounds)
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        write_sana(Path(folder), miniature / "tokenizer")
        results["sana"] = measure(Path(folder), prompts, device, options.rounds, height=32, width=32)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
