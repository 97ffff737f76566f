"""The LightningModule: frozen generator, noise hypernetwork and reward ensemble, trained on the tilted objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins import MixedPrecision, Precision
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import GradClipAlgorithmType, rank_zero_info
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from hn.data.module import PromptDataModule
from hn.data.prompts import PromptBatch
from hn.evaluation.methods import MethodOutput, Sampled, TrainedMethod
from hn.evaluation.samples import Samples
from hn.generators.base import Conditioning, Generator
from hn.generators.noise import BatchSlice, NoiseType, TrainingNoise, training_streams
from hn.hypernets.trainable import Trainable
from hn.hypernets.weights import load_trainable_state_dict, trainable_state_dict
from hn.objective import Regulariser, noise_hypernetwork_loss
from hn.rewards.ensemble import RewardEnsemble, RewardOutput
from hn.training.estimators import Estimator, Pathwise, ScoredBatch
from hn.training.kept_scores import gather_scores, own_scores
from hn.training.optimizers import RECORD, continue_optimizer
from hn.training.schedules import check_reward_weights, learning_rate_factor, reward_weight_at
from hn.training.scoring import BatchScorer
from hn.training.strategy import ShardedStrategy, shard
from hn.utils.class_path import class_path
from hn.utils.distributed import class_of
from hn.utils.numbers import NonNegativeFloat, PositiveFloat

_HALF_WEIGHTS = ("bf16-true", "16-true", "transformer-engine", "transformer-engine-float16")
"""Lightning's precisions that convert all weights, those that are trained too."""

OptimizerFactory = Callable[[Sequence[nn.Parameter]], torch.optim.Optimizer]
"""Trainable parameters -> their optimiser."""


class NoiseHypernetModule(L.LightningModule):
    """Trains f to minimise `regulariser(f) - reward_weight * reward(g(x0 + f(x0)))` (arXiv 2508.09968, equation 10).

    With a `LoraFinetune` in the place of the hypernetwork the same loop is the comparison method, direct reward
    fine-tuning: the noise is left alone, the generator's own LoRA is trained on the reward.

    Args:
        generator: the frozen generator g.
        hypernet: the noise hypernetwork f, or a `LoraFinetune`.
        reward: the reward ensemble r.
        optimizer: makes the optimiser of the trainable weights.
        estimator: of the reward's gradient; by default `Pathwise`, through generator and rewards, as in the paper.
        regulariser: "mean" for the published code's 1/2 mean(f^2), "sum" for the paper's 1/2 |f|^2.
        reward_weight: multiplies the reward.
        final_reward_weight: what `reward_weight` has become, geometrically, at `decay_steps`; constant if not given.
        noise_type: noise per update: "inf" fresh for every sample; "batch" one noise shared by the batch, new at each
            update; "one" a single noise for the whole run; "multi" one fixed batch of noises.
        warmup_steps: updates over which the learning rate rises linearly.
        decay_steps: update at which the learning rate has fallen to zero along a cosine; constant if not given.
        score_batch_size: images decoded and scored at a time in training (with an estimator that needs no gradients,
            also generated): a part of the batch whose gradients are computed before the next one's activations; None
            for all at once. Less memory, and the same gradients up to rounding.
        images_per_prompt: images that each prompt gets in validation, test and prediction.
        seed: of weights and training noise; an update's noise depends on this and the update's number alone.
        evaluation_seed: of the noise in validation, test and prediction, the same for all methods and training seeds.

    Raises:
        ValueError: if a number is out of range, scores cannot be computed in parts, or the hypernetwork does not fit
            the generator.
    """

    def __init__(
        self,
        generator: Generator,
        hypernet: Trainable,
        reward: RewardEnsemble,
        optimizer: OptimizerFactory = torch.optim.AdamW,
        estimator: Estimator | None = None,
        regulariser: Regulariser = "mean",
        reward_weight: NonNegativeFloat = 1.0,
        final_reward_weight: PositiveFloat | None = None,
        noise_type: NoiseType = "inf",
        warmup_steps: int = 0,
        decay_steps: int | None = None,
        score_batch_size: int | None = None,
        images_per_prompt: int = 4,
        seed: int = 0,
        evaluation_seed: int = 0,
    ) -> None:
        super().__init__()
        _check_numbers(images_per_prompt, warmup_steps, decay_steps)
        check_reward_weights(reward_weight, final_reward_weight, decay_steps)
        estimator = estimator or Pathwise()
        _check_parts(score_batch_size, generator, reward, estimator)
        if estimator.is_forward_only and hypernet.kind == "finetune":
            raise ValueError(
                f"{type(estimator).__name__} estimates the gradient with respect to the noise, which a fine-tune does "
                "not change: train a fine-tune with hn.training.estimators.Pathwise."
            )
        self.generator, self.hypernet, self.reward, self.estimator = generator, hypernet, reward, estimator
        self.score_batch_size = score_batch_size
        self.optimizer_factory, self.warmup_steps, self.decay_steps = optimizer, warmup_steps, decay_steps
        self.regulariser, self.reward_weight, self.final_reward_weight = regulariser, reward_weight, final_reward_weight
        self.draw_noise, self.images_per_prompt = TrainingNoise(noise_type), images_per_prompt
        self.seed, self.evaluation_seed = seed, evaluation_seed
        self.strict_loading = False  # checkpoints hold the trainable weights alone; on_load_checkpoint checks them
        # Of the last training batch: for those who look into a loss that is not finite.
        self.terms: dict[str, Tensor] = {}
        with torch.random.fork_rng(devices=[]):  # weights are made on the CPU, from the seed and nothing else
            torch.manual_seed(seed)
            hypernet.build(generator)
        estimator.build(generator)

    @property
    def _ddp_params_and_buffers_to_ignore(self) -> list[str]:
        """What `DistributedDataParallel` leaves alone, which asks for it by this name.

        Frozen weights and buffers come from the same files in all processes and do not change. Otherwise it would send
        all of them from rank 0 to the others at the start, and the buffers again before every forward pass.
        """
        frozen = [name for name, parameter in self.named_parameters() if not parameter.requires_grad]
        return frozen + [name for name, _ in self.named_buffers()]

    def check_training(self, precision: str | int | None) -> None:
        """Refuse what can be evaluated, but not trained.

        Args:
            precision: the trainer's, as its option has it.

        Raises:
            ValueError: if generator or rewards are not for training, or the precision does not go with the module's
                options.
        """
        if not self.generator.differentiable and not self.estimator.is_forward_only:
            raise ValueError(
                f"{type(self.generator).__name__} gives no gradients: train by forward passes alone, with "
                "--model.estimator hn.training.estimators.ScoreFunction."
            )
        if self.reward.gradient_free and not self.estimator.is_forward_only:
            raise ValueError(
                "A gradient_free reward ensemble gives no gradients: leave out gradient_free "
                "(model.reward.init_args.gradient_free), or train by forward passes alone, with --model.estimator "
                "hn.training.estimators.ScoreFunction."
            )
        if str(precision) in _HALF_WEIGHTS:
            raise ValueError(
                f"--trainer.precision {precision} makes the trained weights half precision, in which small updates are "
                "lost: use bf16-mixed, which leaves them float32, with bfloat16 as the dtype of generator and rewards."
            )
        in_parts = self.score_batch_size is not None and not self.estimator.is_forward_only
        if str(precision) in ("16", "16-mixed") and (in_parts or self.reward.balance_gradients):
            raise ValueError(
                "score_batch_size and balance_gradients compute gradients before the loss is scaled, and small ones "
                "are lost in float16: use --trainer.precision bf16-mixed."
            )

    def setup(self, stage: str) -> None:
        """Have the generator and the rewards look at all prompts of the stage, and the generator be told of each
        training batch ahead.

        Raises:
            ValueError: if they cannot take one of them, before any work is done; or as `check_training`.
        """
        if stage == "fit":
            self.check_training(self.trainer.precision)
        data = self.trainer.datamodule
        if not isinstance(data, PromptDataModule):
            return
        data.prefetch_hook = self._prepare_for
        data.updates_per_batch = self.estimator.updates_per_batch
        prompts = [prompt for dataset in data.datasets.values() for prompt in dataset.prompts]
        self.generator.check_prompts(prompts)
        self.reward.check_prompts(prompts)

    def _prepare_for(self, batch: PromptBatch) -> None:
        self.generator.prefetch(batch["prompt"])

    def configure_model(self) -> None:
        """Shard the weights, where the strategy is one that does.

        Raises:
            ValueError: if it is Lightning's own, whose checkpoints hold the frozen weights too.
        """
        if self.device_mesh is None:
            return
        if not isinstance(self.trainer.strategy, ShardedStrategy):
            raise ValueError(
                f"{type(self.trainer.strategy).__name__} shards the weights, but writes checkpoints that no other "
                "strategy reads. Use hn's own: --trainer.strategy='{class_path: hn.training.strategy.ShardedStrategy}'"
            )
        shard(self.generator, self.hypernet, self.device_mesh["data_parallel"])

    def forward(
        self,
        noise: Tensor,
        conditioning: Conditioning,
        steps: int | None = None,
        rng: torch.Generator | list[torch.Generator] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Images of the model in training, and f.

        Args:
            noise: [B, *noise_shape] ~ N(0, I).
            conditioning: of B prompts.
            steps: sampling steps; the generator's own number if not given.
            rng: source of the noise that some schedulers draw after the first step, or one for each sample.

        Returns:
            Images [B, 3, H, W] in [0, 1] and f [B, *noise_shape] (zeros for a fine-tune), both differentiable in the
            trainable weights.
        """
        return self.hypernet.images(noise, conditioning, steps, rng)

    def scores(
        self,
        modulated: Tensor,
        conditioning: Conditioning,
        prompts: Sequence[str],
        streams: Sequence[torch.Generator],
        part: int = 0,
        repeat: int = 0,
    ) -> RewardOutput:
        """Scores of the images of a batch, as the estimator has them.

        Args:
            modulated: [B, *noise_shape], x0 + f(x0).
            conditioning: of B prompts.
            prompts: B prompts.
            streams: B sources of what an estimator, and some schedulers after the first step, draw.
            part: number of the batch among those that an update accumulates.
            repeat: how many updates have used this batch before.

        Returns:
            Scores [B], whose total is differentiable in `modulated` and in a fine-tune's weights.
        """
        generator, size = self.hypernet.image_generator, self.score_batch_size
        score = BatchScorer(generator, self.reward, conditioning, prompts, streams, size)
        return self.estimator(ScoredBatch(modulated, score, streams, prompts, part, repeat))

    def training_step(self, batch: PromptBatch, batch_idx: int) -> Tensor:
        prompts = batch["prompt"]
        n_batches, repeat = divmod(self.global_step, self.estimator.updates_per_batch)
        own = self._batch_slice(batch_idx)
        key = self.seed, n_batches, own
        noise, conditioning = self.draw_noise(len(prompts), self.generator, *key), self.generator.encode(prompts)
        f = self.hypernet(noise, conditioning)
        streams = training_streams(len(prompts), *key)
        scores = self.scores(noise + f, conditioning, prompts, streams, own.part, repeat)
        weight = reward_weight_at(self.global_step, self.reward_weight, self.final_reward_weight, self.decay_steps)
        terms = noise_hypernetwork_loss(scores.total, f, self.regulariser, weight)
        logged = {"loss": terms.loss, "reward": terms.reward, "regulariser": terms.regulariser, "kl_nats": terms.kl}
        logged |= {f"reward_{name}": score.mean() for name, score in scores.components.items()}
        self.terms = logged = self._mean_over_ranks({name: value.detach() for name, value in logged.items()})
        # Not for Lightning's progress bar (`prog_bar`), which has them read off the device at each update.
        self.log_dict({f"train/{name}": value for name, value in logged.items()}, batch_size=len(prompts))
        return terms.loss

    def _batch_slice(self, batch_idx: int) -> BatchSlice:
        """Which samples of the global batch this batch holds."""
        if self._trainer is None:
            return BatchSlice()
        parts = self.trainer.accumulate_grad_batches
        return BatchSlice(batch_idx % parts, parts, self.global_rank, self.trainer.world_size)

    def _mean_over_ranks(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Means of scalars over all processes, in one message, so that every process logs those of the global batch."""
        if self._trainer is None or self.trainer.world_size == 1:
            return values
        means = self.trainer.strategy.reduce(torch.stack([*values.values()]), reduce_op="mean")
        return dict(zip(values, means.unbind(), strict=True))

    def base_method(self, steps: int | None = None) -> Sampled:
        """The frozen generator by itself."""
        return Sampled("base", self.generator, steps)

    def trained_method(self, steps: int | None = None) -> TrainedMethod:
        """The model in training: generator and hypernetwork, or the fine-tuned generator."""
        return TrainedMethod(self.hypernet, steps)

    def evaluation_step(self, batch: PromptBatch) -> tuple[Samples, MethodOutput]:
        """Samples of a batch of evaluation prompts, and what the model in training makes of them."""
        samples = Samples.draw(self.generator, batch, self.images_per_prompt, self.evaluation_seed)
        return samples, self.trained_method()(samples)

    def validation_step(self, batch: PromptBatch, batch_idx: int) -> tuple[Samples, MethodOutput]:
        return self.evaluation_step(batch)

    def test_step(self, batch: PromptBatch, batch_idx: int) -> tuple[Samples, MethodOutput]:
        return self.evaluation_step(batch)

    def predict_step(self, batch: PromptBatch, batch_idx: int) -> tuple[Samples, MethodOutput]:
        return self.evaluation_step(batch)

    def configure_optimizers(self) -> dict[str, Any]:
        """The optimiser, and its learning rate's schedule.

        Raises:
            ValueError: if it is a fused one whose gradients are to be clipped in float16, which Lightning cannot.
        """
        optimizer = self.optimizer_factory([p for p in self.hypernet.parameters() if p.requires_grad])
        is_fused = any(group.get("fused") for group in optimizer.param_groups)
        trainer = self._trainer
        if is_fused and trainer is not None and trainer.gradient_clip_val and trainer.precision == "16-mixed":
            raise ValueError(
                "A fused optimiser unscales the gradients of 16-mixed itself, after they were to be clipped: use "
                "--trainer.precision bf16-mixed, or add --model.optimizer.init_args.fused=false."
            )
        scheduler = LambdaLR(optimizer, self._learning_rate_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _learning_rate_factor(self, step: int) -> float:
        return learning_rate_factor(step, self.warmup_steps, self.decay_steps)

    @property
    def _schedule(self) -> dict[str, Any]:
        return {"warmup_steps": self.warmup_steps, "decay_steps": self.decay_steps}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip gradients as Lightning does, but also those of a fused optimiser under bf16-mixed, where Lightning (2.6)
        takes it for one that has to unscale them first."""
        plugin = self.trainer.precision_plugin
        if isinstance(plugin, MixedPrecision) and plugin.scaler is None:
            algorithm = GradClipAlgorithmType(gradient_clip_algorithm or GradClipAlgorithmType.NORM)
            Precision.clip_gradients(plugin, optimizer, gradient_clip_val or 0.0, algorithm)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def load_trained(self, folder: str | Path, trust_remote_code: Sequence[str] = ()) -> None:
        """Replace the model in training by one that `save_pretrained` wrote; its own options count, not this module's.

        Args:
            folder: of the weights.
            trust_remote_code: class paths of hypernetworks that its files may name, besides hn's own and the class of
                the module's hypernetwork.

        Raises:
            FileNotFoundError: if there is none in `folder`.
            ValueError: if its class is not trusted, its files are damaged, it does not fit the generator, or is a
                fine-tune where a hypernetwork is trained or the other way round.
        """
        self.hypernet = self.hypernet.load_same_kind(folder, trust_remote_code)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the trainable weights alone, and what they are weights of."""
        checkpoint["state_dict"] = trainable_state_dict(self.hypernet)
        checkpoint["hn_model"] = self._description()
        checkpoint[RECORD] = {"class": class_path(type(self.probe_optimizer())), **self._schedule}
        kept = gather_scores(self.estimator.kept_scores(), self._batch_slice(0), self.all_gather)
        if kept:
            checkpoint["hn_scores"] = kept

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take a checkpoint's weights and, in training, continue its optimiser with this run's options.

        Raises:
            ValueError: if it is a checkpoint of another model, or the optimiser's state does not fit its options; names
                what differs.
        """
        self.take_weights(checkpoint)
        if self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING:
            optimizer = self.probe_optimizer()
            changed = continue_optimizer(checkpoint, optimizer, self._schedule, self._learning_rate_factor)
            if changed:
                rank_zero_info(f"The optimiser's options change for the rest of the run: {', '.join(changed)}.")

    def take_weights(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint is one of this model, and take its weights.

        Raises:
            ValueError: if it is not; names what differs.
        """
        self._check_model(checkpoint)
        load_trainable_state_dict(self.hypernet, checkpoint["state_dict"])
        kept = own_scores(checkpoint.get("hn_scores", {}), self._batch_slice(0), self.generator.device)
        self.estimator.keep_scores(kept)
        checkpoint["state_dict"] = {}  # for Lightning, which would look for the frozen weights too

    def check_continued(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint that training cannot continue from; the module may be without weights.

        Args:
            checkpoint: not used afterwards.

        Raises:
            ValueError: as `on_load_checkpoint`.
        """
        self._check_model(checkpoint)
        continue_optimizer(checkpoint, self.probe_optimizer(), self._schedule, self._learning_rate_factor)

    def _check_model(self, checkpoint: Mapping[str, Any]) -> None:
        """Raises:
        ValueError: if the checkpoint is one of another model; names what differs.
        """
        found, own = checkpoint.get("hn_model"), self._description()
        if found is None:
            raise ValueError("The checkpoint was not written by hn, or by a version that cannot be read any more.")
        differences = [
            f"{name} is {found.get(name)} there and {own.get(name)} here"
            for name in dict.fromkeys([*own, *found])
            if found.get(name) != own.get(name)
        ]
        if differences:
            raise ValueError(
                f"The checkpoint is one of another model: {'; '.join(differences)}. "
                "Use the configuration that it was trained with, or start anew without it."
            )

    def probe_optimizer(self) -> torch.optim.Optimizer:
        """The optimiser with this run's options, of one parameter."""
        return self.optimizer_factory([nn.Parameter(torch.zeros(1))])

    def _description(self) -> dict[str, Any]:
        """What the trainable weights mean something for; how gradients are computed is no part of it."""
        arguments = {k: v for k, v in self.hypernet.arguments().items() if k != "gradient_checkpointing"}
        network = class_path(class_of(self.hypernet))
        base = self.generator.backbone if self.generator.has_backbone else self.generator
        return {"model": self.hypernet.method, "class": network, "backbone": class_path(class_of(base)), **arguments}


def _check_numbers(images_per_prompt: int, warmup_steps: int, decay_steps: int | None) -> None:
    if images_per_prompt < 1 or warmup_steps < 0:
        raise ValueError(
            "images_per_prompt must be at least 1 and warmup_steps not negative; "
            f"got {images_per_prompt} and {warmup_steps}."
        )
    if decay_steps is not None and decay_steps < 1:
        raise ValueError(f"decay_steps must be at least 1, not {decay_steps}; leave it out for a constant rate.")


def _check_parts(
    score_batch_size: int | None, generator: Generator, reward: RewardEnsemble, estimator: Estimator
) -> None:
    """Whether scores can be computed so many at a time."""
    if score_batch_size is None:
        return
    if score_batch_size < 1:
        raise ValueError(f"score_batch_size must be at least 1, not {score_batch_size}.")
    if estimator.is_forward_only:
        return
    if not (hasattr(generator, "denoise") and hasattr(generator, "decode")):
        raise ValueError(
            f"score_batch_size needs a generator that denoises and decodes; {type(generator).__name__} only generates."
        )
    if reward.balance_gradients:
        raise ValueError("balance_gradients compares gradients of the whole batch; leave out score_batch_size or it.")
