"""The command line: LightningCLI's fit, validate, test and predict, and the verbs train, compare and generate.

`hn <verb> --config experiments/X.yaml [--trainer.max_steps 100 ...]`. This is the only place that parses arguments.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace, set_parsing_settings
from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from hn.comparison import Comparison
from hn.module import NoiseHypernetModule
from hn.run_directory import RunDirectory, latest
from hn.trainer import ExperimentTrainer


class UserError(Exception):
    """Something to mend in the command or the configuration; shown as one message without a traceback."""


class HnCLI(LightningCLI):
    """LightningCLI with run directories and the verbs train, compare and generate."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {
            **LightningCLI.subcommands(),
            "train": {"model", "datamodule"},
            "compare": {"model", "datamodule", "comparison"},
            "generate": {"model"},
        }

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--extends", type=list[str], default=[], help="Configuration files that this one builds on."
        )
        parser.add_class_arguments(RunDirectory, "run")
        parser.add_class_arguments(Comparison, "comparison")
        parser.link_arguments("seed_everything", "model.seed")
        parser.link_arguments("seed_everything", "data.init_args.seed")

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        files = config.get("config") or []
        self.experiment_file = str(files[-1]) if files else None
        run = RunDirectory(**vars(config.run))
        if self.subcommand in ("compare", "generate") and run.name is None:
            run.name = f"{self.subcommand}_{RunDirectory.timestamp()}"
        self.directory = run.path(self.experiment_file)
        config.trainer.default_root_dir = str(self.directory)
        if config.trainer.logger is None:  # straight into the run's directory, so that everything of a run is there
            arguments = Namespace(save_dir=str(self.directory), name="", version="")
            config.trainer.logger = Namespace(
                class_path="lightning.pytorch.loggers.TensorBoardLogger", init_args=arguments
            )

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except (ValueError, OSError) as error:
            raise UserError(str(error)) from error

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            super()._run_subcommand(subcommand)
        except (ValueError, OSError) as error:
            if self.trainer.fit_loop.epoch_loop.total_batch_idx >= 0:
                raise  # in the middle of training it is a failure, not a slip of the user's
            raise UserError(str(error)) from error

    def compare(
        self,
        model: NoiseHypernetModule,
        datamodule: LightningDataModule,
        hypernet: str | None = None,
        finetune: str | None = None,
        **_: Any,
    ) -> None:
        """Find the trained hypernetwork and fine-tune, train what is missing, and compare."""  # fmt: skip
        comparison = self.config_init["compare"]["comparison"]
        hypernet = hypernet or str(self._trained(self.experiment_file))
        if finetune is None and comparison.finetune:
            finetune = str(self._trained(comparison.finetune))
        self.trainer.compare(model, datamodule, comparison, hypernet, finetune)

    def generate(self, model: NoiseHypernetModule, hypernet: str | None = None, **options: Any) -> None:
        """Take the newest trained hypernetwork of the experiment, or the one that comes with it."""
        options.pop("datamodule", None)
        run = self.config_init["generate"]["run"]
        found = hypernet or latest(run.root, self._experiment(self.experiment_file), "hypernet/hypernet_config.json")
        if not (found or run.pretrained):
            raise UserError(
                "There is no trained hypernetwork yet: train the experiment first, or name one with --hypernet."
            )
        chosen = hypernet or (str(found / "hypernet") if found else run.pretrained)
        self.trainer.generate(model, hypernet=chosen, **options)

    def _trained(self, experiment_file: str) -> Path:
        """The weights of the newest finished run of an experiment; trained now if there is none."""
        run = self.config[self.subcommand].run
        found = latest(run.root, self._experiment(experiment_file), "results.json", beside="hypernet")
        if found is None:
            print(f"No finished run of {experiment_file} yet: training it first.")
            main(["train", "--config", experiment_file, "--run.root", run.root])
            found = latest(run.root, self._experiment(experiment_file), "results.json", beside="hypernet")
        return found / "hypernet"

    def _experiment(self, experiment_file: str | None) -> str:
        own = self.config[self.subcommand].run.experiment if experiment_file == self.experiment_file else None
        return RunDirectory(experiment=own).experiment_of(experiment_file)


def expand_extends(arguments: Sequence[str]) -> list[str]:
    """Put the files that each `--config` file `extends` before it, so that it overrides them.

    Raises:
        UserError: if a file is missing or is no YAML mapping.
    """
    expanded: list[str] = []
    words = iter(arguments)
    for word in words:
        option, equals, value = word.partition("=")
        if option in ("--config", "-c"):
            for file in _with_bases(Path(value if equals else next(words, "")), ()):
                expanded += ["--config", str(file)]
        else:
            expanded.append(word)
    return expanded


def _with_bases(file: Path, chain: tuple[Path, ...]) -> Iterator[Path]:
    if not file.is_file():
        siblings = sorted(path.stem for path in file.parent.glob("*.yaml")) if file.parent.is_dir() else []
        hint = f"; {file.parent} has: {', '.join(siblings)}" if siblings else ""
        raise UserError(f"There is no configuration file {file}{hint}.")
    if file in chain:
        raise UserError(f"{file} extends itself: {' -> '.join(map(str, (*chain, file)))}.")
    try:
        content = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"{file} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} must hold a mapping of options.")
    for base in content.get("extends") or []:
        yield from _with_bases(file.parent / base, (*chain, file))
    yield file


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; exits with status 2 and one message for an error of the user's."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    program, sys.argv = sys.argv, sys.argv[:1]  # all that LightningCLI parses is what it is handed here
    try:
        HnCLI(
            NoiseHypernetModule,
            LightningDataModule,
            trainer_class=ExperimentTrainer,
            subclass_mode_data=True,
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={"parser_mode": "omegaconf+"},
            args=expand_extends(arguments),
        )
    except UserError as error:
        if os.environ.get("HN_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    finally:
        sys.argv = program
