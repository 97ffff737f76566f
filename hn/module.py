"""The LightningModule: a frozen generator, a noise hypernetwork and a reward ensemble, trained on the tilted objective."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from hn.generators.base import Conditioning, Generator
from hn.hypernets.base import Hypernet
from hn.hypernets.finetune import LoraFinetune
from hn.hypernets.weights import load_trainable_state_dict, trainable_state_dict
from hn.noise import NoiseType, evaluation_noise, training_noise
from hn.objective import Regulariser, noise_hypernetwork_loss
from hn.rewards.ensemble import RewardEnsemble

OptimizerFactory = Callable[[Sequence[nn.Parameter]], torch.optim.Optimizer]


@dataclass(frozen=True)
class EvaluationBatch:
    """What a validation or test step hands to the callbacks; P prompts with K images each, prompt by prompt.

    Attributes:
        prompts: P * K prompts, each repeated K times.
        metadata: the prompts' rows, repeated likewise.
        index: [P * K] the prompt's number in its set.
        f: [P * K, *noise_shape] the perturbation of the noise; zeros for a fine-tune.
        images: [P * K, 3, H, W] of the trained model, in [0, 1].
        base_images: the frozen generator's images of the same noise; None where they are not needed.
        seconds: time that `images` took, conditioning encoded beforehand.
        base_seconds: time that `base_images` took.
    """

    prompts: list[str]
    metadata: list[dict[str, Any]]
    index: Tensor
    f: Tensor
    images: Tensor
    base_images: Tensor | None
    seconds: float
    base_seconds: float


class NoiseHypernetModule(L.LightningModule):
    """Trains f to minimise `regulariser(f) - reward_weight * reward(g(x0 + f(x0)))` (arXiv 2508.09968, equation 10).

    With a `LoraFinetune` in the place of the hypernetwork the same loop is the comparison method, direct reward
    fine-tuning: the noise is left alone, the generator's own LoRA is trained on the reward.

    Args:
        generator: the frozen generator g.
        hypernet: the noise hypernetwork f, or a `LoraFinetune`.
        reward: the reward ensemble.
        optimizer: makes the optimiser of the trainable weights.
        regulariser: "mean" for the published code's 1/2 mean(f^2), "sum" for the paper's 1/2 |f|^2.
        reward_weight: multiplies the reward.
        noise_type: noise per update: "inf" fresh for every sample; "batch" one noise shared by the batch, new at each
            update; "one" a single noise for the whole run; "multi" one fixed batch of noises.
        warmup_steps: updates over which the learning rate rises linearly; constant afterwards.
        images_per_prompt: images a prompt gets in validation and test.
        seed: of weights and training noise; a step's noise depends on this and the step alone.
        evaluation_seed: of the noise in validation and test, the same for every method and training seed.
    """

    def __init__(
        self,
        generator: Generator,
        hypernet: Hypernet | LoraFinetune,
        reward: RewardEnsemble,
        optimizer: OptimizerFactory = torch.optim.AdamW,
        regulariser: Regulariser = "mean",
        reward_weight: float = 1.0,
        noise_type: NoiseType = "inf",
        warmup_steps: int = 0,
        images_per_prompt: int = 4,
        seed: int = 0,
        evaluation_seed: int = 0,
    ) -> None:
        super().__init__()
        self.generator, self.hypernet, self.reward = generator, hypernet, reward
        self.optimizer_factory, self.warmup_steps = optimizer, warmup_steps
        self.regulariser, self.reward_weight = regulariser, reward_weight
        self.noise_type, self.images_per_prompt = noise_type, images_per_prompt
        self.seed, self.evaluation_seed = seed, evaluation_seed
        self.base_images_needed = True  # switched off by callbacks that hold the base's scores already
        self.strict_loading = False  # checkpoints hold the trainable weights alone; on_load_checkpoint checks them
        torch.manual_seed(seed)
        self.tuned: Generator | None = None
        if isinstance(hypernet, LoraFinetune):
            self.tuned = hypernet.attach(generator)
        else:
            hypernet.build(generator)

    @property
    def mode(self) -> Literal["hypernetwork", "finetune"]:
        """What is trained."""
        return "hypernetwork" if self.tuned is None else "finetune"

    def forward(
        self, noise: Tensor, conditioning: Conditioning, steps: int | None = None, rng: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Images [B, 3, H, W] in [0, 1] of the trained model, and f [B, *noise_shape]."""  # fmt: skip
        if self.tuned is not None:
            return self.tuned.generate(noise, conditioning, steps, rng), torch.zeros_like(noise)
        f = self.hypernet(noise, conditioning)
        return self.generator.generate(noise + f, conditioning, steps, rng), f

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        prompts = batch["prompt"]
        noise = training_noise(
            self.noise_type, len(prompts), self.generator, self.seed, self.global_step, batch_idx, self.global_rank
        )
        images, f = self(noise, self.generator.encode(prompts))
        scores = self.reward(images, prompts)
        terms = noise_hypernetwork_loss(scores.total, f, self.regulariser, self.reward_weight)
        size = len(prompts)
        self.log("train/loss", terms.loss.detach(), batch_size=size)
        self.log("train/kl_nats", terms.kl, batch_size=size)
        self.log("reward", terms.reward.detach(), prog_bar=True, logger=False, batch_size=size)
        self.log("regulariser", terms.regulariser.detach(), prog_bar=True, logger=False, batch_size=size)
        self.log("train/reward", terms.reward.detach(), batch_size=size)
        self.log("train/regulariser", terms.regulariser.detach(), batch_size=size)
        for name, score in scores.components.items():
            self.log(f"train/reward_{name}", score.detach().mean(), batch_size=size)
        return terms.loss

    @torch.no_grad()
    def evaluation_batch(self, batch: dict[str, Any]) -> EvaluationBatch:
        """Images of the base and of the trained model for one batch of evaluation prompts, from the same noise."""
        copies = self.images_per_prompt
        prompts = [prompt for prompt in batch["prompt"] for _ in range(copies)]
        metadata = [row for row in batch["metadata"] for _ in range(copies)]
        index = batch["index"].repeat_interleave(copies)
        noise = evaluation_noise(self.generator, batch["index"].tolist(), copies, self.evaluation_seed)
        conditioning = self.generator.encode(prompts)
        marks = [_now(noise)]
        base_images = self.generator.generate(noise, conditioning) if self.base_images_needed else None
        marks.append(_now(noise))
        images, f = self(noise, conditioning)
        marks.append(_now(noise))
        seconds, base_seconds = marks[2] - marks[1], marks[1] - marks[0]
        return EvaluationBatch(prompts, metadata, index, f, images, base_images, seconds, base_seconds)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> EvaluationBatch:
        return self.evaluation_batch(batch)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> EvaluationBatch:
        return self.evaluation_batch(batch)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> EvaluationBatch:
        return self.evaluation_batch(batch)

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = self.optimizer_factory([p for p in self.hypernet.parameters() if p.requires_grad])
        warmup = max(1, self.warmup_steps)
        scheduler = LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warmup))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = trainable_state_dict(self.hypernet)
        checkpoint["hn_mode"] = self.mode

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check the weights against this module's and load them.

        Raises:
            ValueError: if the checkpoint is not one of this model: another mode, rank or generator.
        """
        if checkpoint.get("hn_mode") != self.mode:
            found = checkpoint.get("hn_mode", "something that hn did not write")
            raise ValueError(f"The checkpoint holds a {found}, but this experiment trains a {self.mode}; use its own.")
        load_trainable_state_dict(self.hypernet, checkpoint["state_dict"])
        checkpoint["state_dict"] = {}


def _now(tensor: Tensor) -> float:
    """The clock, once the accelerator has caught up."""
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
    return time.perf_counter()
