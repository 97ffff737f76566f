"""Verbs with an experiment: LightningCLI's fit, validate, test and predict, and train, compare, embed,
plan and generate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import Namespace, set_parsing_settings
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf.errors import OmegaConfBaseException

from hn.cli.embed import SUITE_VERBS, cache_of, embed_experiment
from hn.cli.memory import is_out_of_memory, out_of_memory_message
from hn.cli.parsing import (
    Parser,
    UserError,
    expand_configs,
    nearest_options,
    user_errors,
    with_flag_values,
    without_options,
)
from hn.cli.plan import plan_experiment, without_machine
from hn.cli.preflight import check_category, check_steps, check_values, try_without_weights
from hn.cli.processes import (
    require_one_device,
    require_one_process,
    require_run_name,
    run_name_for_others,
    run_name_of_rank_zero,
)
from hn.data.module import PromptDataModule, check_names, fetch_sets
from hn.data.store import PromptStore
from hn.evaluation.comparison.options import Comparison
from hn.evaluation.suite import SuitePrompts
from hn.training.callbacks.evaluation import Evaluation
from hn.training.callbacks.stopping import TrainingStopped
from hn.training.callbacks.suite import arguments_of, suites_in
from hn.training.module import NoiseHypernetModule
from hn.training.planning.table import plan_table
from hn.training.run_directory import (
    CHECKPOINTS,
    RunDirectory,
    find_checkpoint,
    find_weights,
    requeued_checkpoint,
    require_budget,
    timestamp,
)
from hn.training.trainer import ExperimentTrainer
from hn.utils.class_path import import_class
from hn.utils.hub import locate, repositories_in, require_repositories

DESCRIPTION = """Noise hypernetworks for few-step image generators: hn VERB --config experiments/NAME.yaml [OPTIONS].
These need no experiment: hn generate --help, hn score --help, hn report --help, hn prompts --help.
Several trainings side by side: hn study --help."""
WEIGHTS_CONFIG = "adapter_config.json"  # hypernetworks and fine-tunes alike have it
USAGE = "hn {verb} --config experiments/NAME.yaml [--OPTION VALUE ...]"
STAGES = {"train": "fit", "compare": "test", "embed": None}
"""The stage whose prompts a verb needs, where it is called otherwise."""
WITHOUT_RUN = ("embed", "plan")
"""Verbs that make what they need of the configuration themselves, and write no run."""


C = TypeVar("C", bound="HnCLI")


class HnCLI(LightningCLI):
    """LightningCLI with configurations that extend others, run directories and five more verbs.

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
            "compare": {"model", "datamodule", "comparison", "settings"},
            "generate": {"model"},
            "embed": {"generator", "prompts"},
            "plan": {"model"},
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
            raise UserError(f"{error}\n{self._nearest_options(str(error))}{hint}") from None
        verb = self.config.get("subcommand")
        if verb is not None and self.config[verb].seed_everything < 0:
            raise UserError(f"seed_everything must not be negative, but is {self.config[verb].seed_everything}.")

    def before_instantiate_classes(self) -> None:
        """Settle the run's directory, and that there is what the verb needs, before anything heavy happens."""
        verb, config = self.subcommand, self.config[self.subcommand]
        if config.run.experiment is None:
            config.run.experiment = Path(self.experiment_file).stem if self.experiment_file else "unnamed"
        if verb in ("compare", "embed", "generate", "plan"):
            require_one_process(verb)
        else:
            require_run_name(verb, config.run.name, config.trainer.num_nodes)
        self.weights = self.checkpoint = None
        generator, reward = config.model.generator, config.model.reward
        with user_errors():
            if verb == "generate":
                for section in (generator, reward):
                    if "cache" in section.get("init_args", {}):
                        section.init_args.cache = False  # the prompts are new ones
            elif verb == "plan":
                without_machine(config.model)
            elif verb == "embed" and "init_args" in generator:
                generator.init_args.cache = cache_of(generator) or True
            parts = config.clone().as_dict()
            suites = [*suites_in(parts["callbacks"])] if verb in SUITE_VERBS else []
            if verb != "embed":
                check_values(verb, parts)
            if verb in WITHOUT_RUN:  # rewards are planned with from less than all of their files
                used = ("generator", "reward") if verb == "embed" and cache_of(reward) else ("generator",)
                parts |= {"callbacks": {}, "model": {name: parts["model"][name] for name in used}}
            require_repositories(repositories_in([parts[section] for section in ("model", "data", "callbacks")]))
            prompts = prompt_options(config)
            store = PromptStore(prompts.get("prompts_folder"))
            check_names(prompts)
            for suite in suites:
                check_names({"test": suite["prompts"]})
            if verb == "embed":
                fetch_sets(prompts, None, store)
                fetch_suites(suites, store)
            if verb in WITHOUT_RUN:
                return
            outline = try_without_weights(parts["model"]["generator"], parts["model"]["hypernet"])
            if outline is not None:
                check_steps(verb, parts, outline)
            run = RunDirectory(**vars(config.run))
            if config.get("ckpt_path") is not None:
                # Not kept in the saved configuration: a run that was continued is still the run of that configuration.
                self.checkpoint, config.ckpt_path = find_checkpoint(run.path, config.ckpt_path), None
            elif verb in ("fit", "train"):
                self.checkpoint = requeued_checkpoint(run.path)
                if self.checkpoint is None and (run.path / CHECKPOINTS).is_dir():
                    raise UserError(
                        f"{run.path} holds a run already; continue it with --ckpt_path last, or choose another name."
                    )
            elif verb == "compare":
                missing = self._find_trained(config, run)
            elif verb == "generate":
                config.hypernet = config.hypernet or find_weights(run)
            else:
                self.weights = find_weights(run)
            # Here and not first in `prepare_data`, which comes after the models were loaded.
            if prompts and verb != "generate":
                # With suites a test has to know what is trained on.
                fetch_sets(prompts, "fit" if suites else STAGES.get(verb, verb), store)
            fetch_suites(suites, store)
            if verb == "compare" and prompts:
                check_category(config.comparison.category, prompts, store)
            if verb != "generate":
                embed_experiment(verb, parts)
        if verb == "compare":
            self._train_missing(config, missing)
        # Beside the runs, so that a comparison does not write over a run's results.
        self.run_name = run.name or run_name_of_rank_zero() or timestamp()
        run.name = f"{verb}_{self.run_name}" if verb in ("compare", "generate") else self.run_name
        self.directory = str(run.path)
        file = "config.yaml" if verb in ("fit", "train") else f"{verb}_config.yaml"
        self.save_config_kwargs = {"overwrite": True, "config_filename": file}

    def instantiate_classes(self) -> None:
        if self.subcommand in WITHOUT_RUN:
            return
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
        settings = yaml.safe_load(self._parser("compare").dump(self.config["compare"]))
        # Where a run is kept, how it was trained and how it says how far it is changes no score.
        settings = {
            "comparison": settings["comparison"],
            "model": settings["model"],
            "data": settings["data"],
            "evaluation": [*arguments_of(Evaluation, settings.get("callbacks") or {})],
            "precision": settings.get("trainer", {}).get("precision"),
        }
        comparison = self._get(self.config_init, "comparison")
        self.trainer.compare(**options, comparison=comparison, settings=settings)

    def _run_subcommand(self, subcommand: str) -> None:
        if subcommand == "embed":
            with user_errors():
                done = embed_experiment(subcommand, self.config[subcommand].clone().as_dict())
            for name, each in done.items():
                print(f"{each.prompts} prompts, {each.written} of them new\n{name:<12} {each.folder}")
            return
        if subcommand == "plan":
            options = self.config[subcommand]
            with user_errors():
                plan = plan_experiment(options.clone().as_dict())
                title = f"{options.run.experiment}: one update at batch {plan.batch_size}, counted"
                print(plan_table(plan, title, options.gpu_memory))
            return
        try:
            with user_errors(only_if=lambda: not self.trainer.is_working), run_name_for_others(self.run_name):
                super()._run_subcommand(subcommand)
        except TrainingStopped as error:
            raise UserError(str(error)) from error
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            config = self.config[subcommand].clone().as_dict()
            raise UserError(out_of_memory_message(error, subcommand, config)) from error
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
        for _, file in missing.values():
            require_one_device(file, config.trainer.devices, config.trainer.num_nodes)
        overrides += ["--trainer.devices=1", "--trainer.num_nodes=1"]  # where they were left to Lightning
        for option, (newest, file) in missing.items():
            print(f"{newest.experiment_path} has no trained run yet: training {file} first.")
            run_experiment(["train", "--config", file, "--run.experiment", newest.experiment, *overrides])
            config[option] = str(newest.trained())

    def _nearest_options(self, message: str) -> str:
        """Known options that are spelled like unknown ones of the command line, after this error."""
        verb = next((word for word in self.arguments if word in self._subcommand_parsers), None)
        if verb is None:
            return ""
        return nearest_options(self._subcommand_parsers[verb], self.arguments, message)


def prompt_options(config: Namespace) -> dict[str, Any]:
    """Arguments of the configuration's `PromptDataModule` or a subclass of it; none if it has another data module."""
    data = config.get("data")
    takes_names = data is not None and issubclass(import_class(data.class_path, LightningDataModule), PromptDataModule)
    return vars(data.init_args) if takes_names else {}


def fetch_suites(suites: Sequence[Mapping[str, Any]], store: PromptStore) -> None:
    """Fetch the prompts of suites that are not here, and read them to see that they are as they should be.

    Args:
        suites: arguments of `PromptSuite`s.
        store: where named sets are kept.

    Raises:
        FileNotFoundError, ValueError, DownloadError: as `fetch_sets` and `SuitePrompts.read`.
    """
    for suite in suites:
        fetch_sets({"test": suite["prompts"]}, "test", store)
        SuitePrompts.read(suite["prompts"], suite.get("category"), suite.get("limit"), store=store)


def run_experiment(arguments: Sequence[str], kind: type[C] = HnCLI) -> C:
    """Run one verb of an experiment.

    Args:
        arguments: the command line after `hn`.
        kind: what parses and runs it.

    Returns:
        It, with the configuration and what was made of it.

    Raises:
        UserError: if the command or the configuration is wrong.
    """
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    return kind(arguments)
