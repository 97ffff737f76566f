"""The command line: LightningCLI's fit, validate, test and predict, and the verbs train, compare, generate and score.

`hn <verb> --config experiments/X.yaml [--trainer.max_steps 100 ...]`; and, without an experiment, `hn generate --generator
...`, `hn score`, and `hn prompts list|show|pull|check` for prompt sets. This is the only place that parses arguments.
What a user can mend is said in one message, with exit status 2; HN_TRACEBACK=1 in the environment adds the traceback.
"""

from __future__ import annotations

import difflib
import inspect
import json
import logging
import os
import re
import sys
import warnings
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import diffusers
import torch
import transformers
import yaml
from jsonargparse import ArgumentParser, Namespace, set_parsing_settings
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf.errors import OmegaConfBaseException

from hn.class_path import class_path, import_class
from hn.comparison import Comparison
from hn.config import generator_section, read_config
from hn.data import verbs
from hn.data.images import check_images, read_image_folder
from hn.data.module import PromptDataModule, check_names, fetch_sets
from hn.data.prompts import read_prompts
from hn.data.store import PromptStore
from hn.device import find_device
from hn.generate import ImageRequest, Trained, generate_images
from hn.generators.base import Generator
from hn.generators.pipeline import DiffusersGenerator
from hn.hypernets import Hypernet, LoraFinetune
from hn.module import NoiseHypernetModule
from hn.pretrained import locate, parse_dtype, repositories_in, require_repositories
from hn.report.images import require_unused
from hn.rewards.base import Reward
from hn.rewards.named import SHORT_NAMES, reward_sections
from hn.run_directory import CHECKPOINTS, WEIGHTS, RunDirectory, find_checkpoint, timestamp
from hn.score import require_prompts, score_files
from hn.trainer import ExperimentTrainer

DESCRIPTION = """Noise hypernetworks for few-step image generators: hn VERB --config experiments/NAME.yaml [OPTIONS].
These need no experiment: hn generate --help, hn score --help, hn prompts --help."""
WEIGHTS_CONFIG = "adapter_config.json"  # hypernetworks and fine-tunes alike have it
USAGE = "hn {verb} --config experiments/NAME.yaml [--OPTION VALUE ...]"
STAGES = {"train": "fit", "compare": "test"}
"""The stage whose prompts a verb needs, where it is called otherwise."""
GENERATE_USAGE = "hn generate --generator ID_OR_FOLDER [--hypernet ID_OR_FOLDER] --prompt PROMPT [--OPTION VALUE ...]"
GENERATE_DESCRIPTION = f"""Make images of prompts, by a generator alone or with a hypernetwork or fine-tune.

The form with an experiment is {USAGE.format(verb="generate")} --prompt PROMPT; its options are listed by
hn generate --config experiments/NAME.yaml --help."""
SCORE_USAGE = "hn score --rewards NAME[,NAME...] --images FOLDER [--prompts FILE] [--OPTION VALUE ...]"
SCORE_DESCRIPTION = """Score a folder of images with reward models, to JSON and CSV.

Folders that hn generate or hn predict wrote, or in GenEval's layout, have the prompts of their images; for others
--prompts names a file."""

# What these say is known, wanted here, or of no use to who runs an experiment.
UNHELPFUL_WARNINGS = (
    r"Found \d+ module\(s\) in eval mode",  # the generator stays in eval mode on purpose
    r".*does not have many workers",  # prompts are in memory
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # between Lightning and PyTorch
    r".*`lr_scheduler.step\(\)` before `optimizer.step\(\)`",  # said of a resumed run, where it is not so
    r"The number of training batches .* is smaller than the logging interval",
    r"Checkpoint directory .* exists and is not empty",  # a run that continues
)
UNHELPFUL_INFORMATION = ("litlogger", "TPU available", "`weights_only` was not set")


class UserError(Exception):
    """Something to mend in the command or the configuration; shown as one message without a traceback."""


class Parser(LightningArgumentParser):
    """Says what is wrong with the arguments, without hundreds of lines of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # a parser for the arguments of one class, whose caller says more
            super().error(message, ex)
        raise UserError(message)


class HnCLI(LightningCLI):
    """LightningCLI with configurations that extend others, run directories and three more verbs.

    Args:
        arguments: the command line after `hn`.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self.arguments = list(arguments)
        verbs = {verb: {"usage": USAGE.format(verb=verb)} for verb in self.subcommands()}
        super().__init__(
            NoiseHypernetModule,
            LightningDataModule,
            trainer_class=ExperimentTrainer,
            parser_class=Parser,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_kwargs={"description": DESCRIPTION, **verbs},
        )

    def subcommands(self) -> dict[str, set[str]]:
        """The verbs, and the arguments of the trainer's methods that are no options.

        If the command line has a verb it is the only one: making the options of all of them takes a while.
        """
        verbs = LightningCLI.subcommands()
        verbs = {
            "train": {"model", "datamodule"},
            "compare": {"model", "datamodule", "comparison"},
            "generate": {"model"},
            **verbs,
            "predict": verbs["predict"] | {"return_predictions"},
        }
        asked = [verb for verb in self.arguments[:1] if verb in verbs]
        return {verb: verbs[verb] for verb in asked or verbs}

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        kwargs.setdefault("parser_mode", "omegaconf+")
        kwargs.setdefault("allow_abbrev", False)  # a misspelt option is an error, not the beginning of another one
        return super().init_parser(**kwargs)

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--seed_everything", type=int, default=0, help="Seed of weights, noise and data order.")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_class_arguments(RunDirectory, "run")
        parser.add_argument(
            "--callbacks",
            type=dict[str, Callback | None],
            default={},
            help="Callbacks by a name of your choice, so that experiments can change or drop (null) one of them.",
        )
        parser.add_class_arguments(Comparison, "comparison")
        parser.add_argument(
            "--vars", type=dict[str, Any], default={}, help="Values of your own to refer to, as in ${vars.rank}."
        )
        parser.link_arguments("seed_everything", "model.seed")
        parser.link_arguments("seed_everything", "data.init_args.seed")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the command line, each `--config FILE` in it replaced by the content with all that it extends."""
        arguments, self.experiment_file = expand_configs(with_flag_values(self.arguments, ("--compare",)))
        if self.experiment_file is not None and self.arguments[0].startswith("-"):
            raise UserError(f"The verb comes first: {USAGE.format(verb='VERB')}")
        try:
            self.config = parser.parse_args(arguments)
        except OmegaConfBaseException as error:
            raise UserError(f"A ${{...}} in the configuration cannot be resolved: {error}") from error
        except UserError as error:
            hint = "The options of a verb are listed by: hn VERB --help"
            if self.experiment_file is None and self.arguments[0] in self._subcommand_parsers:
                raise UserError(f"An experiment is missing: {USAGE.format(verb=self.arguments[0])}\n{hint}") from None
            raise UserError(f"{error}\n{self._nearest_options()}{hint}") from None
        verb = self.config.get("subcommand")
        if verb is not None and self.config[verb].seed_everything < 0:
            raise UserError(f"seed_everything must not be negative, but is {self.config[verb].seed_everything}.")

    def before_instantiate_classes(self) -> None:
        """Settle the run's directory, and that there is what the verb needs, before anything heavy happens."""
        verb, config = self.subcommand, self.config[self.subcommand]
        if config.run.experiment is None:
            config.run.experiment = Path(self.experiment_file).stem if self.experiment_file else "unnamed"
        self.weights = self.checkpoint = None
        with user_errors():
            parts = config.clone().as_dict()
            require_repositories(repositories_in([parts[section] for section in ("model", "data", "callbacks")]))
            prompts = prompt_options(config)
            check_names(prompts)
            try_without_weights(parts["model"]["generator"], parts["model"]["hypernet"])
            run = RunDirectory(**vars(config.run))
            if config.get("ckpt_path") is not None:
                # Not kept in the saved configuration: a run that was continued is still the run of that configuration.
                self.checkpoint, config.ckpt_path = find_checkpoint(run.path, config.ckpt_path), None
            elif verb in ("fit", "train"):
                if (run.path / CHECKPOINTS).is_dir():
                    raise UserError(
                        f"{run.path} holds a run already; continue it with --ckpt_path last, or choose another name."
                    )
            elif verb == "compare":
                missing = self._find_trained(config, run)
            elif verb == "generate":
                config.hypernet = config.hypernet or find_weights(run)
            else:
                self.weights = find_weights(run)
            if prompts and verb != "generate":
                # Here and not first in `prepare_data`, which comes after the models were loaded.
                fetch_sets(prompts, STAGES.get(verb, verb), PromptStore(prompts["prompts_folder"]))
        if verb == "compare":
            self._train_missing(config, missing)
        # Beside the runs, so that a comparison does not write over a run's results.
        name = run.name or timestamp()
        run.name = f"{verb}_{name}" if verb in ("compare", "generate") else name
        self.directory = str(run.path)
        file = "config.yaml" if verb in ("fit", "train") else f"{verb}_config.yaml"
        self.save_config_kwargs = {"overwrite": True, "config_filename": file}

    def instantiate_classes(self) -> None:
        with user_errors():
            super().instantiate_classes()
            if self.weights is not None:
                self.model.load_trained(self.weights)
        if self.checkpoint is not None:
            self.config_init[self.subcommand]["ckpt_path"] = self.checkpoint

    def instantiate_trainer(self, **kwargs: Any) -> ExperimentTrainer:
        named = [callback for callback in self._get(self.config_init, "callbacks").values() if callback is not None]
        others = self._get(self.config_init, "trainer").callbacks or []
        others = others if isinstance(others, list) else [others]
        options = {"callbacks": [*named, *others], "default_root_dir": self.directory, **kwargs}
        if self._get(self.config_init, "trainer").logger is None:
            # Straight into the run's directory, so that everything of a run is in one place.
            options["logger"] = TensorBoardLogger(self.directory, name="", version="", default_hp_metric=False)
        return super().instantiate_trainer(**options)

    def predict(self, **options: Any) -> None:
        """Images are written as they come, not kept in memory until the end."""
        self.trainer.predict(**options, return_predictions=False)

    def generate(self, **options: Any) -> None:
        """The prompts are on the command line, not in the data module."""
        options.pop("datamodule", None)
        self.trainer.generate(**options)

    def compare(self, **options: Any) -> None:
        self.trainer.compare(**options, comparison=self._get(self.config_init, "comparison"))

    def _run_subcommand(self, subcommand: str) -> None:
        with user_errors(only_if=lambda: not self.trainer.is_working):
            super()._run_subcommand(subcommand)
        if self.weights is not None:
            print(f"weights      {self.weights}")

    def _find_trained(self, config: Namespace, run: RunDirectory) -> dict[str, tuple[RunDirectory, str]]:
        """Fill in the weights that a comparison needs, those that are there.

        Returns:
            The others by their option: the run directory of their experiment, and its configuration file.

        Raises:
            ValueError: if weights that are there had another budget than this command's.
        """
        finetune = config.comparison.finetune
        if finetune is not None and Path(finetune).stem == run.experiment:
            raise UserError(f"{finetune} is the comparison's fine-tune; compare the experiment that names it.")
        needed = {"hypernet": (RunDirectory(run.root, run.experiment), self.experiment_file)}
        if finetune is not None:
            needed["finetune"] = (RunDirectory(run.root, Path(finetune).stem), finetune)
        missing = {}
        for option, (newest, file) in needed.items():
            if config[option] is not None:
                locate(config[option], WEIGHTS_CONFIG)
            elif newest.trained() is None:
                missing[option] = newest, file
            else:
                config[option] = str(newest.trained())
                require_budget(newest.trained(), config.trainer.max_steps, option)
        return missing

    def _train_missing(self, config: Namespace, missing: dict[str, tuple[RunDirectory, str]]) -> None:
        """Train what a comparison needs and does not have, with this command's options."""
        own = ("config", "c", "hypernet", "finetune", "run.name", "run.experiment")
        overrides = without_options(self.arguments, own)[1:]  # without the verb
        for option, (newest, file) in missing.items():
            print(f"{newest.experiment_path} has no trained run yet: training {file} first.")
            run_hn(["train", "--config", file, "--run.experiment", newest.experiment, *overrides])
            config[option] = str(newest.trained())

    def _nearest_options(self) -> str:
        """Known options that are spelled like unknown ones of the command line."""
        verb = next((word for word in self.arguments if word in self._subcommand_parsers), None)
        if verb is None:
            return ""
        free = re.compile(r"\.(init_args|class_path)\b|^--(callbacks|vars|comparison\.searches)\.")
        return nearest_options(self._subcommand_parsers[verb], self.arguments, free)


def nearest_options(parser: ArgumentParser, arguments: Sequence[str], free: re.Pattern[str] | None = None) -> str:
    """Known options that are spelled like unknown ones, a line each; those that fit `free` cannot be known."""
    known = [option for action in parser._actions for option in action.option_strings]
    given = [word.partition("=")[0] for word in arguments if word.startswith("--")]
    unknown = [word for word in given if word not in known and not (free and free.search(word))]
    nearest = {word: difflib.get_close_matches(word, known, n=1) for word in unknown}
    return "".join(f"{word}: did you mean {found[0]}?\n" for word, found in nearest.items() if found)


def with_flag_values(arguments: Sequence[str], flags: Sequence[str]) -> list[str]:
    """The arguments with `=true` added to each of these options that has no value."""
    following = [*arguments[1:], "--"]
    return [
        f"{word}=true" if word in flags and after.startswith("-") else word
        for word, after in zip(arguments, following, strict=True)
    ]


def has_config(arguments: Sequence[str]) -> bool:
    """Whether an experiment is named."""
    return any(word.partition("=")[0] in ("--config", "-c") for word in arguments)


def generate_parser() -> Parser:
    """Options of `hn generate` without an experiment."""
    parser = Parser(
        prog="hn generate",
        usage=GENERATE_USAGE,
        description=GENERATE_DESCRIPTION,
        allow_abbrev=False,
        formatter_class=RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--generator", help="Hub id or folder of a diffusers pipeline, or a YAML file with an experiment's "
        "model.generator, or with such a section alone.")  # fmt: skip
    add("--hypernet", help="Hub id or folder of a hypernetwork or fine-tune that hn saved, or of a published LoRA "
        "adapter; without it the generator's own images are made.")  # fmt: skip
    add("--prompt", nargs="+", action="extend", help="One prompt or several, each in quotes.")
    add("--prompts", help="File of prompts: .txt with one a line, or .jsonl with objects that have a `prompt`.")
    add("--compare", type=bool, default=False, help="Make the generator's own images too, from the same noise, and an "
        "overview of both.")  # fmt: skip
    add("--count", type=int, default=4, help="Images of each prompt.")
    add("--seed", type=int, default=0, help="Seed of the noise: image k of a prompt depends on it and k alone.")
    add("--steps", type=int, help="Sampling steps; the generator's own number if not given.")
    add("--batch_size", type=int, default=1, help="Images made at once; with 1 an image does not depend, to the last "
        "bit, on the others.")  # fmt: skip
    add("--output", help="Folder to write to, new or empty; runs/generate/<time> if not given.")
    add("--upscale", type=int, help="Each pixel becomes so many in both directions, in the overview.")
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps, or auto for the GPU if there is one.")
    add("--dtype", help="Data type of the generator's weights: float32, bfloat16, float16 or float64.")
    add("--variant", help='Variant of the generator\'s weight files, like "fp16".')
    add("--revision", help="Branch, tag or commit of the generator on the Hub.")
    add("--height", type=int, help="Height of the images in pixels; the generator's own if not given.")
    add("--width", type=int, help="Width of the images in pixels, likewise.")
    add("--hypernet_revision", help="Branch, tag or commit of the hypernetwork on the Hub.")
    add("--last_layer_rule", help="What becomes of the last layer, for a published adapter that does not say: "
        "lora_branch_only.")  # fmt: skip
    add("--alpha", type=float, help="Alpha of a published adapter that does not say.")
    return parser


def generate_without_experiment(arguments: Sequence[str]) -> None:
    """`hn generate --generator ...`: no experiment, so no rewards, prompts of its own or trainer.

    Raises:
        UserError: if there is something to mend, before anything heavy happens as far as it can be known.
    """
    parser = generate_parser()
    try:
        options = parser.parse_args(with_flag_values(arguments, ("--compare",)))
        if options.generator is None:
            parser.error(f"Name a generator, or an experiment (--config): {GENERATE_USAGE}")
        if (options.prompt is None) == (options.prompts is None):
            parser.error("Give prompts, either with --prompt or in a file with --prompts.")
        of_hypernet = ("hypernet_revision", "last_layer_rule", "alpha", "compare")
        if options.hypernet is None and any(options[name] for name in of_hypernet):
            parser.error(f"{', '.join(f'--{name}' for name in of_hypernet if options[name])} needs --hypernet.")
    except UserError as error:
        hint = "The options are listed by: hn generate --help"
        raise UserError(f"{error}\n{nearest_options(parser, arguments)}{hint}") from None
    with user_errors():
        prompts = [row["prompt"] for row in read_prompts(options.prompts)] if options.prompts else options.prompt
        numbers = ("count", "seed", "steps", "batch_size", "upscale")
        request = ImageRequest(prompts, **{name: options[name] for name in numbers})
        device = find_device(options.device)
        if options.output is not None:
            require_unused(Path(options.output))
        own = ("variant", "revision", "dtype", "height", "width")
        changes = {name: options[name] for name in own if options[name] is not None}
        section = generator_section(options.generator, changes)
        trained = None
        if options.hypernet is not None:
            trained = Trained(options.hypernet, options.hypernet_revision, options.last_layer_rule, options.alpha)
        hypernet = {"pretrained": options.hypernet, "revision": options.hypernet_revision}
        require_repositories(repositories_in([section, hypernet]))
        generate_images(
            make_generator=lambda: instantiate("generator", Generator, section),
            make_outline=lambda: instantiate_outline(section),
            request=request,
            directory=Path(options.output or Path("runs") / "generate" / timestamp()),
            trained=trained,
            compare=options.compare,
            device=device,
        )


def instantiate(name: str, kind: Any, section: Mapping[str, Any]) -> Any:
    """The object of class `kind`, or one of its subclasses, that a section of a configuration describes.

    Args:
        name: of the section, for errors.
        kind: the class, or a union of classes.
        section: `class_path` and `init_args`.

    Raises:
        UserError: if an argument is unknown or of the wrong type.
    """
    parser = Parser()
    parser.add_argument(f"--{name}", type=kind)
    return parser.instantiate_classes(parser.parse_object({name: dict(section)}))[name]


def instantiate_outline(section: Mapping[str, Any]) -> DiffusersGenerator | None:
    """The generator of a configuration without its weights; None if its class has no such thing."""
    if not issubclass(import_class(section["class_path"], Generator), DiffusersGenerator):
        return None
    return instantiate(
        "generator", Generator, {**section, "init_args": {**section["init_args"], "load_weights": False}}
    )


def try_without_weights(generator: Mapping[str, Any], hypernet: Mapping[str, Any]) -> None:
    """Whether generator and hypernetwork (or fine-tune) fit each other, before the weights of anything are loaded.

    Raises:
        ValueError, FileNotFoundError: if not, or if something is missing.
    """
    outline = instantiate_outline(generator)
    if outline is None:
        return
    network = instantiate("hypernet", Hypernet | LoraFinetune, hypernet)
    with torch.device("meta"):
        network.attach(outline) if isinstance(network, LoraFinetune) else network.build(outline)


def prompt_options(config: Namespace) -> dict[str, Any]:
    """Arguments of the configuration's `PromptDataModule`; none if it has another data module."""
    data = config.get("data")
    return vars(data.init_args) if data is not None and data.class_path == class_path(PromptDataModule) else {}


def score_parser() -> Parser:
    """Options of `hn score`."""
    parser = Parser(
        prog="hn score",
        usage=SCORE_USAGE,
        description=SCORE_DESCRIPTION,
        allow_abbrev=False,
        formatter_class=RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--rewards", nargs="+", action="extend", help="One or several, with commas between them: "
        f"{', '.join(SHORT_NAMES)}; class paths; YAML files, like an experiment, of which the held-out rewards are "
        "taken too.")  # fmt: skip
    add("--images", help="Folder of PNG, JPEG or WebP files.")
    add("--prompts", help="File of their prompts, in the order of the files' names: .txt with one a line, or .jsonl "
        "with objects that have a `prompt`.")  # fmt: skip
    add("--images_per_prompt", type=int, help="So many images in a row are of one prompt of the file; 1 if not given.")
    add("--output", help="Folder to write to, new or empty; runs/score/<time> if not given.")
    add("--batch_size", type=int, default=8, help="Images scored at once.")
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps, or auto for the GPU if there is one.")
    add("--dtype", help="Data type of the rewards' weights: float32, bfloat16, float16 or float64; if not given, what "
        "a YAML file says, else float32.")  # fmt: skip
    return parser


def score_folder(arguments: Sequence[str]) -> None:
    """`hn score`: rewards of images on disk.

    Raises:
        UserError: if there is something to mend, before weights are loaded as far as it can be known.
    """
    parser = score_parser()
    try:
        options = parser.parse_args(list(arguments))
        for name in ("rewards", "images"):
            if options[name] is None:
                parser.error(f"Give --{name}: {SCORE_USAGE}")
    except UserError as error:
        hint = "The options are listed by: hn score --help"
        raise UserError(f"{error}\n{nearest_options(parser, arguments)}{hint}") from None
    with user_errors():
        if options.batch_size < 1:
            raise UserError(f"batch_size must be at least 1, not {options.batch_size}.")
        if options.dtype is not None:
            parse_dtype(options.dtype)
        device = find_device(options.device)
        if options.output is not None:
            require_unused(Path(options.output))
        words = [word.strip() for given in options.rewards for word in given.split(",") if word.strip()]
        sections = reward_sections(words, options.dtype)
        classes = {name: import_class(section["class_path"], Reward) for name, section in sections.items()}
        rewards = Parser()
        rewards.add_argument("--rewards", type=list[Reward])
        config = rewards.parse_object({"rewards": list(sections.values())})
        resolved = dict(zip(sections, config.clone().as_dict()["rewards"], strict=True))
        files = read_image_folder(options.images, options.prompts, options.images_per_prompt)
        require_prompts(files, classes)
        repositories = [classes[name].repositories(part.get("init_args", {})) for name, part in resolved.items()]
        require_repositories(wanted for found in repositories for wanted in found)
        score_files(
            files,
            check_images(files),
            make_rewards=lambda: dict(zip(sections, rewards.instantiate(config).rewards, strict=True)),
            directory=Path(options.output or Path("runs") / "score" / timestamp()),
            facts={
                "folder": options.images,
                "prompts": options.prompts,
                "images_per_prompt": options.images_per_prompt,
                "rewards": resolved,
                "device": str(device),
                "batch_size": options.batch_size,
            },
            folder=Path(options.images),
            batch_size=options.batch_size,
            device=device,
        )


def expand_configs(arguments: Sequence[str]) -> tuple[list[str], str | None]:
    """The arguments with each `--config FILE` replaced by `--config CONTENT`, and the last file's path.

    The content is that of the file over all that it extends.

    Raises:
        UserError: if a file is missing or wrong.
    """
    expanded: list[str] = []
    file = None
    words = iter(arguments)
    for word in words:
        option, equals, value = word.partition("=")
        if option in ("--config", "-c"):
            file = value if equals else next(words, "")
            with user_errors():
                content = read_config(file)
            expanded += ["--config", yaml.safe_dump(content, sort_keys=False)]
        else:
            expanded.append(word)
    return expanded, file


def without_options(arguments: Sequence[str], names: Sequence[str]) -> list[str]:
    """The arguments without the options of these names and their values."""
    kept: list[str] = []
    words = iter(arguments)
    for word in words:
        option, equals, _ = word.partition("=")
        if option.startswith("-") and option.lstrip("-") in names:
            if not equals:
                next(words, None)
        else:
            kept.append(word)
    return kept


def find_weights(run: RunDirectory) -> str:
    """Folder of trained weights: the named run's, else the experiment's newest, else those that come with it.

    Raises:
        UserError: if there are none.
    """
    folder = run.trained() or (run.pretrained if run.name is None else None)
    if folder is None and run.name is not None:
        names = sorted(weights.parent.name for weights in run.experiment_path.glob(f"*/{WEIGHTS}"))
        raise UserError(
            f"{run.path} has no trained weights ({WEIGHTS}/), which `hn train` writes at its end. Evaluate one of its "
            f"checkpoints with --ckpt_path best or last; trained runs are: {', '.join(names) or 'none'}."
        )
    if folder is None:
        raise UserError(
            f"{run.experiment_path} has no trained run: train the experiment first (hn train), or name trained weights "
            "(--hypernet for generate; --ckpt_path, like `best` with --run.name, for validate, test and predict)."
        )
    return str(folder)


def require_budget(weights: Path, max_steps: int, option: str) -> None:
    """Refuse weights that were trained for another number of updates than this command's.

    Raises:
        ValueError: says what to do.
    """
    results = weights.parent / "results.json"
    steps = json.loads(results.read_text())["training"]["steps"] if results.is_file() else max_steps
    if max_steps > 0 and steps != max_steps:
        raise ValueError(
            f"{weights.parent} was trained for {steps} updates, but trainer.max_steps is {max_steps}: compare at that "
            f"budget with --trainer.max_steps={steps}, name weights with --{option}, or train again."
        )


@contextmanager
def user_errors(only_if: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Turn errors that stand for something the user can mend into `UserError`."""
    try:
        yield
    except (ValueError, OSError, MisconfigurationException) as error:
        if not only_if():
            raise
        raise UserError(str(error)) from error


@contextmanager
def helpful_messages_only() -> Iterator[None]:
    """Keep back what libraries say that means nothing to who runs an experiment."""
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    handlers = logging.getLogger("lightning.pytorch").handlers

    def is_helpful(record: logging.LogRecord) -> bool:
        return not any(part in record.getMessage() for part in UNHELPFUL_INFORMATION)

    for handler in handlers:
        handler.addFilter(is_helpful)
    try:
        with warnings.catch_warnings():
            for message in UNHELPFUL_WARNINGS:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for handler in handlers:
            handler.removeFilter(is_helpful)


def run_hn(arguments: Sequence[str]) -> None:
    """Run one command.

    Raises:
        UserError: if the command or the configuration is wrong.
    """
    if list(arguments[:1]) == ["generate"] and not has_config(arguments):
        generate_without_experiment(arguments[1:])
        return
    if list(arguments[:1]) == ["score"]:
        score_folder(arguments[1:])
        return
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    HnCLI(arguments)


def run_prompts(arguments: Sequence[str]) -> None:
    """Run one command on prompt sets.

    Args:
        arguments: the command line after `hn prompts`.

    Raises:
        UserError: if the command is wrong, or a set is.
    """
    functions = {"list": verbs.list_sets, "show": verbs.show, "pull": verbs.pull, "check": verbs.check}
    parser = Parser(prog="hn prompts", description="Prompt sets by name: what there is, and having it on this machine.")
    subcommands = parser.add_subcommands()
    for verb, function in functions.items():
        options = Parser(description=inspect.getdoc(function).split("\n\nArgs:")[0])
        if verb == "show":
            options.add_argument("name", help="A set, files of a set, or a mix.")
        elif verb != "list":
            options.add_argument("names", nargs="*", default=[], help="Sets, files of sets, or mixes.")
        if verb == "pull":
            options.add_argument("--all", action="store_true", help="Every set that can be fetched.")
            options.add_argument("--from", metavar="FOLDER", help="Take the files from a folder instead.")
        options.add_function_arguments(function, skip={"name", "names", "all", "source"}, as_group=False)
        subcommands.add_subcommand(verb, options, help=inspect.getdoc(function).splitlines()[0])
    config = parser.parse_args(arguments or ["--help"])
    options = vars(config[config.subcommand])
    if "from" in options:
        source = options.pop("from")
        options["source"] = None if source is None else Path(source)
    with user_errors():
        for line in functions[config.subcommand](**options):
            print(line, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; exits with status 2 and one message for an error of the user's."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        with helpful_messages_only():
            if arguments[:1] == ["prompts"]:
                run_prompts(arguments[1:])
            else:
                run_hn(arguments)
    except UserError as error:
        if os.environ.get("HN_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        if os.environ.get("HN_TRACEBACK"):
            raise
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
