"""Rewards, held-out rewards, GenEval-style verdicts, KL and fidelity, during and after training."""

from __future__ import annotations

from itertools import islice
from typing import Any

import lightning as L
from torch import Tensor
from torch.utils.data import DataLoader

from hn.data.prompts import PromptBatch
from hn.evaluation.compare import reference_features
from hn.evaluation.detectors.base import Detector
from hn.evaluation.methods import MethodOutput
from hn.evaluation.record import MethodRecord
from hn.evaluation.samples import Samples
from hn.evaluation.scorer import Scorer, feature_extractor_of
from hn.module import NoiseHypernetModule


class Evaluation(L.Callback):
    """Scores the images of every validation and test, those of the frozen generator and of the trained model.

    Logged as `val/...` and `test/...` for the trained model, as `val/base_...` and `test/base_...` for the generator:
    `reward` (the weighted total), `reward_<name>` of each reward, `held_out_reward` (the plain mean of the held-out
    rewards), `held_out_<name>` of each of them, `geneval` (mean over the tags), `geneval_<tag>`, `kl_nats`, and
    `fidelity`, the CMMD to the generator's images of other noise.

    A checkpoint is best chosen by `val/held_out_reward`, which nothing was trained on, or by one of the held-out
    rewards if their scales differ. The generator does not change: each process measures it once, at its first
    validation and at its first test.

    Args:
        detector: judges prompts that have GenEval metadata; without it verdicts are left out.
        fidelity: measure the distance to the generator's images, with the first held-out reward that gives features.
    """

    def __init__(self, detector: Detector | None = None, fidelity: bool = True) -> None:
        self.detector, self.fidelity = detector, fidelity
        self.base: dict[str, MethodRecord] = {}
        self.references: dict[str, Tensor | None] = {}
        self.record = MethodRecord("none")
        self._new_base: MethodRecord | None = None

    def setup(self, trainer: L.Trainer, pl_module: NoiseHypernetModule, stage: str) -> None:
        if hasattr(self.detector, "to"):
            self.detector.to(trainer.strategy.root_device)
        features = feature_extractor_of(pl_module.reward) if self.fidelity else None
        self.scorer = Scorer(pl_module.reward, self.detector, features)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: NoiseHypernetModule) -> None:
        self._start(trainer, pl_module, "val", trainer.val_dataloaders, trainer.num_val_batches)

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: NoiseHypernetModule) -> None:
        self._start(trainer, pl_module, "test", trainer.test_dataloaders, trainer.num_test_batches)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: NoiseHypernetModule,
        outputs: tuple[Samples, MethodOutput],
        batch: PromptBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._add(trainer, *outputs)

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: NoiseHypernetModule,
        outputs: tuple[Samples, MethodOutput],
        batch: PromptBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._add(trainer, *outputs)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: NoiseHypernetModule) -> None:
        self._finish(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: NoiseHypernetModule) -> None:
        self._finish(trainer, pl_module, "test")

    def summaries(self, stage: str = "test") -> dict[str, dict[str, Any]]:
        """Entries of `results.json` for the generator and the trained model, once that stage has run."""
        base, reference = self.base[stage], self.references[stage]
        return {"base": base.summary(None, reference), self.record.name: self.record.summary(base, reference)}

    def _start(
        self, trainer: L.Trainer, module: NoiseHypernetModule, stage: str, loader: DataLoader, n_batches: list[int]
    ) -> None:
        method = module.trained_method()
        self.record = MethodRecord(method.name, method.nfe)
        self._new_base = None
        if stage not in self.base:
            self._base_method = module.base_method()
            self._new_base = MethodRecord("base", self._base_method.nfe)
            # Lightning runs hooks in full precision; these images must be made as the trained model's are.
            with trainer.precision_plugin.forward_context():
                self.references[stage] = reference_features(
                    module.generator,
                    self.scorer,
                    islice(loader, sum(n_batches)),
                    module.images_per_prompt,
                    module.evaluation_seed,
                )

    def _add(self, trainer: L.Trainer, samples: Samples, output: MethodOutput) -> None:
        with trainer.precision_plugin.forward_context():
            self.record.add(samples, output, self.scorer(output.images, samples.prompts, samples.metadata))
            if self._new_base is not None:
                output = self._base_method(samples)
                self._new_base.add(samples, output, self.scorer(output.images, samples.prompts, samples.metadata))

    def _finish(self, trainer: L.Trainer, module: NoiseHypernetModule, stage: str) -> None:
        base, reference = self._new_base or self.base[stage], self.references[stage]
        if not trainer.sanity_checking:  # which sees a few batches only
            self.base[stage] = base
        for prefix, record in ((f"{stage}/", self.record), (f"{stage}/base_", base)):
            scalars = _scalars(record.summary(reference=reference))
            module.log_dict({prefix + name: value for name, value in scalars.items()}, sync_dist=True)


def _scalars(summary: dict[str, Any]) -> dict[str, float]:
    names = ("reward", "held_out_reward", "kl_nats", "fidelity")
    scalars = {name: summary[name] for name in names if summary[name] is not None}
    for tag, score in (summary["geneval"] or {}).items():
        scalars["geneval" if tag == "overall" else f"geneval_{tag}"] = score
    scalars |= {f"reward_{name}": score for name, score in summary["rewards"].items()}
    return {f"held_out_{name}": score for name, score in summary["held_out_rewards"].items()} | scalars
