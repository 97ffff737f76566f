"""Rewards, held-out rewards, GenEval-style verdicts, KL and fidelity, during and after training."""

from __future__ import annotations

import lightning as L
from torch import Tensor

from hn.evaluation.compare import reference_features
from hn.evaluation.record import MethodRecord
from hn.evaluation.scorer import Detector, Scorer, feature_extractor_of
from hn.module import EvaluationBatch, NoiseHypernetModule
from hn.objective import noise_kl


class Evaluation(L.Callback):
    """Scores the images of every validation and test step, base and trained model side by side.

    Logs `val/...` (`test/...`): `reward`, `held_out_reward`, `geneval`, one entry per GenEval tag, `kl_nats`,
    `fidelity` (CMMD to the base's images of other noise), and `base_reward`, `base_held_out_reward`, `base_geneval`.
    Checkpoints are best chosen by `val/held_out_reward`, which nothing was trained on. The base is measured once.

    Args:
        detector: judges prompts with GenEval metadata; without it verdicts are left out.
        fidelity: measure the distance to the base's images, with the first held-out reward that gives features.
    """

    def __init__(self, detector: Detector | None = None, fidelity: bool = True) -> None:
        self.detector, self.fidelity = detector, fidelity
        self.base: dict[str, MethodRecord] = {}
        self.reference: dict[str, Tensor | None] = {}
        self.record: MethodRecord | None = None

    def setup(self, trainer: L.Trainer, pl_module: NoiseHypernetModule, stage: str) -> None:
        if hasattr(self.detector, "to"):
            self.detector.to(trainer.strategy.root_device)
        features = feature_extractor_of(pl_module.reward) if self.fidelity else None
        self.scorer = Scorer(pl_module.reward, self.detector, features)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: NoiseHypernetModule) -> None:
        self._start(trainer, pl_module, "val", trainer.val_dataloaders)

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: NoiseHypernetModule) -> None:
        self._start(trainer, pl_module, "test", trainer.test_dataloaders)

    def _start(self, trainer: L.Trainer, module: NoiseHypernetModule, stage: str, batches) -> None:
        module.base_images_needed = stage not in self.base
        self.record = MethodRecord(module.mode, module.generator.steps + (module.mode == "hypernetwork"))
        self._new_base = MethodRecord("base", module.generator.steps) if module.base_images_needed else None
        if stage not in self.reference:
            self.reference[stage] = reference_features(
                module.generator, self.scorer, batches, module.images_per_prompt, module.evaluation_seed
            )

    def on_validation_batch_end(self, trainer, pl_module, outputs: EvaluationBatch, batch, batch_idx, dataloader_idx=0):
        self._add(outputs, pl_module)

    def on_test_batch_end(self, trainer, pl_module, outputs: EvaluationBatch, batch, batch_idx, dataloader_idx=0):
        self._add(outputs, pl_module)

    def _add(self, outputs: EvaluationBatch, module: NoiseHypernetModule) -> None:
        tags = [row.get("tag", "all") for row in outputs.metadata]
        kl = noise_kl(outputs.f) if module.mode == "hypernetwork" else None
        scores = self.scorer(outputs.images, outputs.prompts, outputs.metadata)
        self.record.add(outputs.index, tags, scores, kl, outputs.seconds)
        if self._new_base is not None:
            scores = self.scorer(outputs.base_images, outputs.prompts, outputs.metadata)
            self._new_base.add(outputs.index, tags, scores, noise_kl(outputs.f) * 0, outputs.base_seconds)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: NoiseHypernetModule) -> None:
        self._finish(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: NoiseHypernetModule) -> None:
        self._finish(trainer, pl_module, "test")

    def _finish(self, trainer: L.Trainer, module: NoiseHypernetModule, stage: str) -> None:
        if self._new_base is not None and not trainer.sanity_checking:
            self.base[stage] = self._new_base
        base = self._new_base or self.base[stage]
        reference = self.reference[stage]
        for prefix, summary in (("", self.record.summary(None, reference)), ("base_", base.summary(None, reference))):
            module.log_dict(_scalars(summary, f"{stage}/{prefix}"), sync_dist=True)

    def summaries(self, stage: str = "test") -> dict[str, dict]:
        """Entries of `results.json` for base and trained model, once that stage has run."""
        base, reference = self.base[stage], self.reference[stage]
        return {"base": base.summary(None, reference), self.record.name: self.record.summary(base, reference)}


def _scalars(summary: dict, prefix: str) -> dict[str, float]:
    names = ("reward", "held_out_reward", "kl_nats", "fidelity")
    found = {prefix + name: summary[name] for name in names if summary[name] is not None}
    for tag, score in (summary["geneval"] or {}).items():
        found[prefix + ("geneval" if tag == "overall" else f"geneval_{tag}")] = score
    for name, score in summary["rewards"].items():
        found[f"{prefix}reward_{name}"] = score
    return found
