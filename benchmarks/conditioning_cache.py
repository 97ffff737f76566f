"""A training step with prompts encoded every time, once (in memory), and read from files, in the step or ahead of it;
memory with and without text encoders.

Measured side by side in one process, the ways taking turns, two batches of prompts as well: the median seconds of a
step and of its encoding, ratios to encoding every time, the bytes of the generator's weights, and the peak of a
process's resident memory that takes one step, beyond what it has before the generator is loaded; on CUDA also what a
step takes at its peak, beside all weights.

Of the miniature and of the small SANA (`benchmarks.pipelines`), whose text encoder reads the pipeline's own instruction
before every prompt.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.miniature import ROOT, prompts
from benchmarks.pipelines import pipelines
from hn.cli.embed import embed_prompts
from hn.evaluation.peak_memory import PeakMemory
from hn.generators import DiffusersGenerator
from hn.hypernets import LoraHypernet
from hn.rewards import RednessReward

WAYS = {
    "every_time": {"prompt_cache_size": 0},
    "once_in_memory": {},
    "files": {"prompt_cache_size": 0},
    "files_ahead": {"prompt_cache_size": 0},
}
"""How prompts are encoded; from files each of them is read anew at every step, or while the step before is at work."""


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


def measure_pipeline(
    folder: Path, batches: list[list[str]], device: torch.device, rounds: int, **options: Any
) -> dict[str, dict[str, float]]:
    """Seconds, ratios and bytes of the pipeline in a folder, by way; of two batches of prompts in turn."""
    with tempfile.TemporaryDirectory() as cache:
        prompts = [prompt for batch in batches for prompt in batch]
        embed_prompts(DiffusersGenerator.build_on_meta(str(folder), cache=cache, **options), prompts, device)
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


def resident_bytes(arguments: list[str]) -> int | None:
    """What a process's memory grows by that loads a generator and takes a step: arguments as for `take_one_step`."""
    command = [sys.executable, "-m", "benchmarks.conditioning_cache", *arguments]
    shown = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    return json.loads(shown.splitlines()[-1])


def take_one_step(folder: str, way: str, cache: str, device: str, batches: str, options: str) -> None:
    """Print by how many bytes this process's resident memory grows up to its peak; null where that is not known."""
    memory = PeakMemory(torch.device("cpu"))
    before = memory.bytes()
    Step(Path(folder), way, cache, torch.device(device), **json.loads(options))(*json.loads(batches))
    print(json.dumps(None if before is None else memory.bytes() - before))


def measure(device: torch.device, rounds: int, batch_size: int = 8) -> dict[str, dict[str, float]]:
    """Numbers of every pipeline and way."""
    texts = prompts(2 * batch_size)
    batches = [texts[:batch_size], texts[batch_size:]]
    found = {}
    with pipelines() as there:
        for name, (folder, options) in there.items():
            ways = measure_pipeline(folder, batches, device, rounds, **options)
            found |= {f"{name}, {way}": row for way, row in ways.items()}
    return found


if __name__ == "__main__":
    take_one_step(*sys.argv[1:])
