"""A training step with prompts encoded every time, once (in memory), and read from files, in the step or ahead of it;
memory with and without text encoders.

    python -m benchmarks.conditioning_cache [--device cuda] [--rounds 10]

Measured side by side in one process, the ways taking turns, two batches of prompts as well. It prints JSON: the median
seconds of a step and of its encoding, ratios to encoding every time, the bytes of the generator's weights, and the peak
of a process's resident memory that takes one step, beyond what it has before the generator is loaded; on CUDA also what
a step takes at its peak, beside all weights.

The miniature is the committed one. "sana" has SANA-Sprint's classes, small, and its text encoder reads the pipeline's
own instruction before every prompt. Neither says what full-size weights would give.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from hn.data import read_prompts
from hn.device import find_device
from hn.embed import embed_prompts
from hn.generators import DiffusersGenerator
from hn.hypernets import LoraHypernet
from hn.rewards import RednessReward

ROOT = Path(__file__).parents[1]
WAYS = {
    "every_time": {"prompt_cache_size": 0},
    "once_in_memory": {},
    "files": {"prompt_cache_size": 0},
    "files_ahead": {"prompt_cache_size": 0},
}
"""How prompts are encoded; from files each of them is read anew at every step, or while the step before is at work."""


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


class Step:
    """Noise, conditioning, f, image, reward and gradients; the same for all ways of encoding."""

    def __init__(self, folder: Path, way: str, cache: str, device: torch.device, **options: Any):
        own = WAYS[way] | ({"cache": cache} if way.startswith("files") else {})
        self.ahead = way == "files_ahead"
        self.generator = DiffusersGenerator(str(folder), **own, **options).to(device)
        torch.manual_seed(0)
        self.hypernet = LoraHypernet(rank=8).build(self.generator).to(device)
        self.reward = RednessReward()
        self.encoding = 0.0

    def __call__(self, prompts: list[str], following: list[str]) -> float:
        """The loss; `following` are the prompts of the next step."""
        generator = self.generator
        if self.ahead:
            generator.prefetch(following)
        started = time.perf_counter()
        conditioning = generator.encode(prompts)
        self.encoding = time.perf_counter() - started
        noise = generator.sample_noise(len(prompts), torch.Generator().manual_seed(0))
        f = self.hypernet(noise, conditioning)
        images = generator.generate(noise + f, conditioning, rng=torch.Generator().manual_seed(0))
        loss = 0.5 * f.square().mean() - self.reward(images, prompts).mean()
        loss.backward()
        self.hypernet.zero_grad()
        return loss.item()

    @property
    def weights(self) -> int:
        """Bytes of the generator's weights."""
        return sum(p.numel() * p.element_size() for p in self.generator.parameters())


def measure(
    folder: Path, batches: list[list[str]], device: torch.device, rounds: int, **options: Any
) -> dict[str, dict[str, float]]:
    """Seconds, ratios and bytes of the pipeline in a folder, by way; of two batches of prompts in turn."""
    with tempfile.TemporaryDirectory() as cache:
        prompts = [prompt for batch in batches for prompt in batch]
        embed_prompts(DiffusersGenerator.outline(str(folder), cache=cache, **options), prompts, device)
        found, steps = {}, {}
        for way in WAYS:
            steps[way] = step = Step(folder, way, cache, device, **options)
            for this, following in (batches, batches[::-1]):  # warm: caches filled, kernels chosen
                step(this, following)
            arguments = [str(folder), way, cache, str(device), json.dumps(batches), json.dumps(options)]
            found[way] = {"weights_bytes": step.weights, "resident_bytes": resident_bytes(arguments)}
            if device.type == "cuda":
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
                step(*batches)
                found[way]["step_peak_bytes"] = torch.cuda.max_memory_allocated() - before
        times: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        for number in range(rounds):
            this, following = batches if number % 2 == 0 else batches[::-1]
            for way, step in steps.items():  # in turns, so that what else the machine does hits all of them
                started = time.perf_counter()
                found[way]["loss"] = step(this, following)
                times[way].append((time.perf_counter() - started, step.encoding))
    for way, values in times.items():
        step, encoding = (statistics.median(column) for column in zip(*values, strict=True))
        found[way] |= {"seconds": step, "encoding_seconds": encoding}
    for way in WAYS:
        found[way]["ratio"] = found[way]["seconds"] / found["every_time"]["seconds"]
    return found


def resident_bytes(arguments: list[str]) -> int:
    """What a process's memory grows by that loads a generator and takes a step: arguments as for `take_one_step`."""
    command = [sys.executable, "-m", "benchmarks.conditioning_cache", "--one_step", *arguments]
    return int(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout.split()[-1])


def take_one_step(folder: str, way: str, cache: str, device: str, batches: str, options: str) -> None:
    """Print the growth of this process's resident memory, in bytes, up to its peak."""
    before = peak_bytes()
    Step(Path(folder), way, cache, torch.device(device), **json.loads(options))(*json.loads(batches))
    print(peak_bytes() - before)


def peak_bytes() -> int:
    """The peak of this process's resident memory so far."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux, where getrusage counts the peak of the process that started this one too
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--one_step", nargs=6, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one_step:
        take_one_step(*options.one_step)
        return
    device, size = find_device(options.device), options.batch_size
    miniature = ROOT / "data" / "miniature" / "pipeline"
    prompts = [row["prompt"] for row in read_prompts(ROOT / "data" / "prompts" / "miniature" / "train.jsonl")]
    prompts = list(dict.fromkeys(prompts))
    batches = [prompts[:size], prompts[size : 2 * size]]
    results: dict[str, Any] = {"device": str(device), "threads": torch.get_num_threads(), "batch_size": size}
    results["miniature"] = measure(miniature, batches, device, options.rounds)
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        write_sana(Path(folder), miniature / "tokenizer")
        results["sana"] = measure(Path(folder), batches, device, options.rounds, height=32, width=32)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
