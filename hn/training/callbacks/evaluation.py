"""Rewards, held-out rewards, GenEval-style verdicts, KL, CMMD and diversity, during and after training."""

from __future__ import annotations

import math
from collections.abc import Sized
from itertools import islice
from typing import Any

import lightning as L
from torch import Tensor
from torch.utils.data import DataLoader

from hn.data.prompts import PromptBatch
from hn.evaluation.benchmarks.base import BenchmarkMetric
from hn.evaluation.comparison.measure import features_of, reference_record
from hn.evaluation.detectors.base import Detector
from hn.evaluation.methods import MethodOutput
from hn.evaluation.metrics.noise_diagnostics import NoiseDiagnostics
from hn.evaluation.record import MethodRecord, joined_over_processes
from hn.evaluation.samples import Samples
from hn.evaluation.scorer import FeatureExtractor, ImageDistance, Scorer, feature_extractor_of
from hn.hypernets.base import Hypernet
from hn.training.module import NoiseHypernetModule


class Evaluation(L.Callback):
    """Scores the images of every validation and test, those of the frozen generator and of the trained model.

    Logged as `val/...` and `test/...` for the trained model, as `val/base_...` and `test/base_...` for the generator:
    `reward` (the weighted total), `reward_<name>` of each reward, `held_out_reward` (the plain mean of the held-out
    rewards), `held_out_<name>` of each of them, `geneval` (mean over the tags), `geneval_<tag>`, `kl_nats`,
    `cmmd`, the CMMD to the generator's images of other noise, and `diversity`, the mean cosine distance between the
    images of a prompt (of two or more). Each of `features` adds `fid_<name>`, `kid_<name>`, `cmmd_<name>` and
    `diversity_<name>`, or the last alone.

    A checkpoint is best chosen by `val/held_out_reward`, which nothing was trained on, or by one of the held-out
    rewards if their scales differ. The generator does not change: each process measures it once, at its first
    validation and at its first test. Several processes share the prompts and join what they measured, so that all
    numbers are those of one process.

    Args:
        detector: for GenEval's verdicts on prompts that have its metadata; without it verdicts are left out.
        cmmd: measure the distance to the generator's images, and diversity, with the first held-out reward that
            gives features.
        features: more extractors of features (`hn.evaluation.metrics.features`), or distances between images for
            diversity alone, by names of your choice; `results.json` has what they give as `distances`.
        noise_diagnostics: estimate what the objective leaves out of the KL, for the trained model, logged as
            `val/noise_...` and `test/noise_...` (see `hn.evaluation.metrics.noise_diagnostics`).
        benchmarks: other benchmarks' metrics (`hn.evaluation.benchmarks.geneval2`,
            `hn.evaluation.benchmarks.compbench`), for prompts whose rows ask what they can score; logged as
            `benchmark_<name>`, means over those.
    """

    def __init__(
        self,
        detector: Detector | None = None,
        cmmd: bool = True,
        features: dict[str, FeatureExtractor | ImageDistance] | None = None,
        noise_diagnostics: NoiseDiagnostics | None = None,
        benchmarks: list[BenchmarkMetric] | None = None,
    ) -> None:
        self.detector, self.cmmd, self.benchmarks = detector, cmmd, benchmarks or []
        self.features, self.noise_diagnostics = features or {}, noise_diagnostics
        self.base: dict[str, MethodRecord] = {}
        self.references: dict[str, dict[str, Tensor] | None] = {}
        self.record = MethodRecord("none")
        self.noise: dict[str, float] | None = None
        self._new_base: MethodRecord | None = None

    def setup(self, trainer: L.Trainer, pl_module: NoiseHypernetModule, stage: str) -> None:
        for network in (self.detector, *self.features.values(), *self.benchmarks):
            if network is not None and hasattr(network, "to"):
                network.to(trainer.strategy.root_device)
        features = feature_extractor_of(pl_module.reward) if self.cmmd else None
        self.scorer = Scorer(
            pl_module.reward, self.detector, features, benchmarks=self.benchmarks, measures=self.features
        )

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
        trained = self.record.summary(base, reference)
        if self.noise is not None:
            trained["noise_diagnostics"] = self.noise
        return {"base": base.summary(None, reference), self.record.name: trained}

    def _start(
        self, trainer: L.Trainer, module: NoiseHypernetModule, stage: str, loader: DataLoader, n_batches: list[int]
    ) -> None:
        method = module.trained_method()
        self.record = MethodRecord(method.name, method.nfe)
        self._new_base = self.noise = None
        self._loader = loader
        if stage not in self.base:
            self._base_method = module.base_method()
            self._new_base = MethodRecord("base", self._base_method.nfe)
            # Lightning runs hooks in full precision; these images must be made as the trained model's are.
            with trainer.precision_plugin.forward_context():
                reference = reference_record(
                    module.generator,
                    self.scorer,
                    islice(loader, sum(n_batches)),
                    module.images_per_prompt,
                    module.evaluation_seed,
                )
            self.references[stage] = None if reference is None else features_of(joined_over_processes(reference))

    def _add(self, trainer: L.Trainer, samples: Samples, output: MethodOutput) -> None:
        with trainer.precision_plugin.forward_context():
            self.record.add(samples, output, self.scorer(output.images, samples.prompts, samples.metadata))
            if self._new_base is not None:
                output = self._base_method(samples)
                self._new_base.add(samples, output, self.scorer(output.images, samples.prompts, samples.metadata))

    def _finish(self, trainer: L.Trainer, module: NoiseHypernetModule, stage: str) -> None:
        self.record = joined_over_processes(self.record)
        base = self.base[stage] if self._new_base is None else joined_over_processes(self._new_base)
        reference = self.references[stage]
        if not trainer.sanity_checking:  # which sees a few batches only
            self.base[stage] = base
        scalars = {f"{stage}/{name}": value for name, value in scalars_of(self.record.summary(None, reference)).items()}
        scalars |= {f"{stage}/base_{name}": value for name, value in scalars_of(base.summary(None, reference)).items()}
        f = module.hypernet
        if self.noise_diagnostics is not None and isinstance(f, Hypernet) and not trainer.sanity_checking:
            self.noise = self._diagnose(self.noise_diagnostics, f, module)
            found = {name: value for name, value in self.noise.items() if not math.isnan(value)}
            scalars |= {f"{stage}/noise_{name}": value for name, value in found.items()}
        module.log_dict(scalars, sync_dist=True)  # the same in all processes

    def _diagnose(
        self, diagnostics: NoiseDiagnostics, hypernet: Hypernet, module: NoiseHypernetModule
    ) -> dict[str, float]:
        dataset = self._loader.dataset
        assert isinstance(dataset, Sized)
        batch = self._loader.collate_fn([dataset[i] for i in range(min(diagnostics.prompts, len(dataset)))])
        samples = Samples.draw(module.generator, batch, 1, module.evaluation_seed)
        return diagnostics(hypernet, module.generator, samples)


def scalars_of(summary: dict[str, Any]) -> dict[str, float]:
    """The numbers of a `MethodRecord`'s summary that are logged, by the names that `Evaluation` has for them."""
    names = ("reward", "held_out_reward", "kl_nats", "cmmd", "diversity")
    scalars = {name: summary[name] for name in names if summary[name] is not None}
    for tag, score in (summary["geneval"] or {}).items():
        scalars["geneval" if tag == "overall" else f"geneval_{tag}"] = score
    for name, distances in summary.get("distances", {}).items():
        scalars |= {f"{kind}_{name}": value for kind, value in distances.items() if value is not None}
    scalars |= {f"benchmark_{name}": score for name, score in summary.get("benchmarks", {}).items()}
    scalars |= {f"reward_{name}": score for name, score in summary["rewards"].items()}
    return {f"held_out_{name}": score for name, score in summary["held_out_rewards"].items()} | scalars
