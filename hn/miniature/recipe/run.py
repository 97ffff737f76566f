"""The stages of the recipe in their order: what each needs, how it is trained and where its product goes."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from hn.miniature.prompts import write_prompt_files
from hn.miniature.recipe.autoencoder import AutoencoderStage
from hn.miniature.recipe.detector import DetectorStage
from hn.miniature.recipe.image_reward import ImageRewardStage, build_word_tokenizer
from hn.miniature.recipe.image_reward import export as export_image_reward
from hn.miniature.recipe.report import write_report
from hn.miniature.recipe.reward import RewardStage, export
from hn.miniature.recipe.stage import Stage, fit
from hn.miniature.recipe.student import SHARD, StudentStage, make_pairs
from hn.miniature.recipe.tokenizer import build_tokenizer, save_tokenizer
from hn.utils.files import atomic_folder, write_json
from hn.utils.text import say

STAGES = ("prompts", "autoencoder", "student", "detector", "reward", "reward_held_out", "image_reward", "report")
SHARDS = 14
HELD_OUT = {"steps": 3200, "seed": 3, "width": 96, "layers": 4, "text_width": 64, "projection": 96}
"""The held-out reward: another seed and other sizes."""


@dataclass(frozen=True)
class Product:
    """What a stage leaves behind: it is finished when `path` exists, `make` trains it and writes it."""

    path: Path
    make: Callable[[], None]


class Recipe:
    """Trains the miniature.

    Args:
        work: folder of checkpoints, logs and training pairs, from which interrupted stages go on; without it all stages
            start from nothing.
        out: folder of the products: `pipeline`, `clip`, `clip_held_out`, `image_reward`, `detector` and the report.
        prompts: folder of the prompt files.
        scale: factor on every stage's length, and on the training pairs.

    Raises:
        ValueError: `scale` is not positive, or `work` was begun with another one, which its learning rates followed.
    """

    def __init__(self, work: Path, out: Path, prompts: Path, scale: float = 1.0) -> None:
        if not 0 < scale < math.inf:
            raise ValueError(f"scale must be a positive number, not {scale}")
        self.work, self.out, self.prompts, self.scale = Path(work), Path(out), Path(prompts), scale
        _remember_scale(self.work / "recipe.json", scale)
        self.products = {
            "prompts": Product(self.prompts / "test.jsonl", self._prompts),
            "autoencoder": Product(self.work / "export" / "vae", self._autoencoder),
            "student": Product(self.out / "pipeline", self._student),
            "detector": Product(self.out / "detector", self._detector),
            "reward": Product(self.out / "clip", self._reward),
            "reward_held_out": Product(self.out / "clip_held_out", self._reward_held_out),
            "image_reward": Product(self.out / "image_reward", self._image_reward),
            "report": Product(self.out / "report.json", self._report),
        }

    def run(self, stages: Sequence[str] = STAGES, force: bool = False) -> None:
        """Run `stages` in the recipe's order.

        A stage is skipped when its product exists, the autoencoder also when the pipeline that holds it does. The
        report is written anew whenever a stage before it ran.

        Args:
            stages: some of `STAGES`.
            force: start them from nothing, finished or not: their checkpoints in `work` are deleted first; with the
                autoencoder's, also the student's and its pairs, which are made of its latents. The old products stay
                until the new ones take their place. Interrupted, it goes on like any other run, without `force`.

        Raises:
            FileNotFoundError: the product of an earlier stage is missing.
        """
        if force:
            for name in stages:
                self._forget(name)
        ran = False
        for name in (stage for stage in STAGES if stage in stages):
            product = self.products[name]
            if self._is_finished(name) and not (name == "report" and ran):
                say(f"{name}: {product.path} is there, skipped (--force starts it from nothing)", flush=True)
                continue
            started = time.monotonic()
            product.make()
            self._redo_mark(name).unlink(missing_ok=True)
            ran = True
            say(f"{name}: wrote {product.path} in {(time.monotonic() - started) / 60:.1f} minutes", flush=True)

    def _forget(self, name: str) -> None:
        for folder in {"autoencoder": (name, "pairs", "student")}.get(name, (name,)):
            if (self.work / folder).exists():
                shutil.rmtree(self.work / folder)
        self._redo_mark(name).parent.mkdir(parents=True, exist_ok=True)
        self._redo_mark(name).touch()

    def _redo_mark(self, name: str) -> Path:
        """Is there while a stage's product is one that `force` asked to make again."""
        return self.work / "redo" / name

    def _is_finished(self, name: str) -> bool:
        if self._redo_mark(name).exists():
            return False
        also = {"autoencoder": "student"}.get(name)
        return self.products[name].path.exists() or (also is not None and self.products[also].path.exists())

    def _prompts(self) -> None:
        write_prompt_files(self.prompts)

    def _autoencoder(self) -> None:
        stage = AutoencoderStage()
        self._fit(stage, "autoencoder")
        autoencoder = stage.calibrate(batches=self._scaled(32))
        with atomic_folder(self.products["autoencoder"].path) as folder:
            autoencoder.save_pretrained(folder)

    def _student(self) -> None:
        autoencoder, tokenizer = self._load_autoencoder(), build_tokenizer()
        pairs = self.work / "pairs"
        shards, shard_size = max(1, round(SHARDS * self.scale)), min(SHARD, self._scaled(SHARDS * SHARD))
        make_pairs(autoencoder, tokenizer, pairs, shards, shard_size)
        stage = StudentStage(tokenizer, pairs)
        self._fit(stage, "student")
        pipeline = stage.pipeline(tokenizer, autoencoder)
        for part in (pipeline.vae, pipeline.text_encoder, pipeline.unet):
            part.half()
        with atomic_folder(self.out / "pipeline") as folder:
            pipeline.save_pretrained(folder)
            save_tokenizer(tokenizer, folder / "tokenizer")

    def _detector(self) -> None:
        stage = DetectorStage()
        self._fit(stage, "detector")
        with atomic_folder(self.out / "detector") as folder:
            stage.detector.save_pretrained(folder)

    def _reward(self) -> None:
        self._clip("reward", RewardStage(build_tokenizer()))

    def _reward_held_out(self) -> None:
        self._clip("reward_held_out", RewardStage(build_tokenizer(), **HELD_OUT))

    def _clip(self, name: str, stage: RewardStage) -> None:
        self._fit(stage, name)
        with atomic_folder(self.products[name].path) as folder:
            export(stage, folder)

    def _image_reward(self) -> None:
        stage = ImageRewardStage(build_word_tokenizer())
        self._fit(stage, "image_reward")
        with atomic_folder(self.out / "image_reward") as folder:
            export_image_reward(stage, folder)

    def _report(self) -> None:
        if not (pipeline := self.products["student"].path).is_dir():
            raise FileNotFoundError(f"There is no {pipeline}: run the stages before the report; run `make miniature`")
        write_report(self.out)

    def _fit(self, stage: Stage, name: str) -> None:
        stage.steps = self._scaled(stage.steps)
        fit(stage, name, self.work)

    def _scaled(self, full: int) -> int:
        return max(2, round(full * self.scale))

    def _load_autoencoder(self) -> AutoencoderKL:
        """The stage's product, or that of an earlier run in its pipeline."""
        folders = (self.products["autoencoder"].path, self.out / "pipeline" / "vae")
        for folder in folders:
            if folder.is_dir():
                loaded = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32)
                # Built anew: the configuration would name the folder that it was loaded from.
                public = {name: value for name, value in loaded.config.items() if not name.startswith("_")}
                autoencoder = AutoencoderKL.from_config(public)
                autoencoder.load_state_dict(loaded.state_dict())
                return autoencoder.eval()
        raise FileNotFoundError(
            f"no autoencoder in {' or '.join(map(str, folders))}: run the stage `autoencoder` first"
        )


def _remember_scale(path: Path, scale: float) -> None:
    if path.is_file():
        before = json.loads(path.read_text())["scale"]
        if before != scale:
            raise ValueError(
                f"{path.parent} was begun with --scale {before:g}, its checkpoints do not fit --scale {scale:g}: "
                "name another folder with --work, or delete it"
            )
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"scale": scale})
