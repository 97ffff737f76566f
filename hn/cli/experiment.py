"""Runs a command of an experiment: parses the configuration, checks it, makes the objects and calls the trainer.

What differs between the commands is in the table of `hn.cli.subcommands`.
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from jsonargparse import set_parsing_settings
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException
from omegaconf.errors import OmegaConfBaseException

from hn.cli import COMMANDS
from hn.cli.compare import comparison_settings, train_missing, training_commands
from hn.cli.embed import embed_experiment
from hn.cli.fetching import check_prompt_names, fetch_prompts, prompt_options
from hn.cli.memory import is_out_of_memory, out_of_memory_message
from hn.cli.options import check_options, check_seed
from hn.cli.parsing import (
    EXPERIMENT_USAGE,
    Parser,
    UserError,
    add_trust_option,
    expand_configs,
    helpful_messages_only,
    nearest_options,
    user_errors,
    with_flag_values,
)
from hn.cli.preflight import check_callbacks, check_data, check_model
from hn.cli.processes import require_one_process, require_run_name, run_name_for_others, run_name_of_rank_zero
from hn.cli.starting_point import StartingPoint, named_checkpoint
from hn.cli.subcommands import SUBCOMMANDS
from hn.cli.unknown_keys import unknown_keys
from hn.data.store import PromptStore
from hn.evaluation.comparison.options import Comparison
from hn.report.curves import EVALUATION_EVENTS
from hn.training.callbacks.stopping import TrainingStopped
from hn.training.callbacks.suite import suites_in
from hn.training.checkpoints import peek_checkpoint
from hn.training.module import NoiseHypernetModule
from hn.training.run_directory import RunDirectory, remove_leftovers, require_no_run, timestamp
from hn.training.trainer import ExperimentTrainer
from hn.utils.hub import repositories_in, require_repositories
from hn.utils.lock import InUseError, locked
from hn.utils.text import say

_OF_LIGHTNING = (MisconfigurationException,)


class ExperimentParser(Parser, LightningArgumentParser):
    """The parser of LightningCLI; says what is wrong as the parsers of other commands do."""


class HnCLI(LightningCLI):
    """One command of an experiment: LightningCLI with configurations that extend others, checks and run directories.

    The constructor parses and checks everything, and makes the objects; `run` does the work.

    Args:
        arguments: the command line after `hn`.

    Raises:
        UserError: if the command line or the configuration is wrong.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self.name, *self.arguments = arguments
        self.command = SUBCOMMANDS[self.name]
        self.start = StartingPoint()
        self.lock = ExitStack()
        try:
            self._set_up()
        except BaseException:
            self.lock.close()
            raise

    def _set_up(self) -> None:
        """Parse and check the command line, and make the objects."""
        set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
        usage = EXPERIMENT_USAGE.format(command=self.name)
        super().__init__(
            NoiseHypernetModule,
            LightningDataModule,
            trainer_class=ExperimentTrainer,
            parser_class=ExperimentParser,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_kwargs={
                "prog": f"hn {self.name}",
                "usage": usage,
                "description": COMMANDS[self.name].help,
                "parser_mode": "omegaconf+",
                "allow_abbrev": False,  # a misspelt option is an error, not the beginning of another one
            },
            run=False,
        )

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
        add_trust_option(parser)
        parser.link_arguments("seed_everything", "model.seed")
        parser.link_arguments("seed_everything", "data.init_args.seed")
        self.options: list[str] = []
        if self.command.add_options is not None:
            self.command.add_options(parser)
        else:
            self.options = parser.add_method_arguments(ExperimentTrainer, self.name, skip=set(self.command.without))

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the command line, each `--config FILE` in it replaced by the content with all that it extends."""
        words = with_flag_values(self.arguments, ("--compare", "--keep_candidates"))
        arguments, files = expand_configs(words)
        self.experiment_file = files[-1] if files else None
        try:
            self.config = parser.parse_args(arguments)
        except OmegaConfBaseException as error:
            raise UserError(f"A ${{...}} in the configuration cannot be resolved: {error}") from error
        except UserError as error:
            hint = f"The options are listed by: {parser.prog} --help"
            if self.experiment_file is None:
                usage = EXPERIMENT_USAGE.format(command=self.name)
                raise UserError(f"An experiment is missing: {usage}\n{hint}") from None
            if in_files := unknown_keys(parser, files, str(error)):
                raise UserError(f"{in_files}{hint}") from None
            raise UserError(f"{error}\n{nearest_options(parser, self.arguments, str(error))}{hint}") from None
        self.config.trust_remote_code = self.config.trust_remote_code or []
        with user_errors():
            check_seed(self.config.seed_everything)

    def before_instantiate_classes(self) -> None:
        """Check that the command can work, and have what it needs at hand, before anything heavy happens."""
        command, config = self.command, self.config
        if config.run.experiment is None:
            config.run.experiment = Path(self.experiment_file).stem if self.experiment_file else "unnamed"
        if command.is_single_process:
            require_one_process(self.name)
        else:
            require_run_name(self.name, config.run.name, config.trainer.num_nodes)
        with user_errors(also=_OF_LIGHTNING):
            run = RunDirectory(**vars(config.run))
            command.prepare(config.model)
            sections = config.clone().as_dict()
            check_options(self.name, sections)
            prompts = prompt_options(sections.get("data"))
            suites = [*suites_in(sections["callbacks"])] if command.has_suites else []
            store = PromptStore(prompts.get("prompts_folder"))
            require_repositories(repositories_in(command.parts(sections)))
            check_prompt_names(prompts, suites)
            if command.run is None:
                module = check_model(sections)
                command.check(sections, module)
                check_callbacks(sections, module)
                self.start = named_checkpoint(config, run) or command.find_start(config, run, self.experiment_file)
                command.check_start(config, self._untrained(), module)
                if command.trains and self.start.checkpoint is not None and module is not None:
                    module.check_continued(peek_checkpoint(self.start.checkpoint))
            # Here and not first in `prepare_data`, which comes after the models were loaded.
            fetch_prompts(command.stages, prompts, suites, store)
            if command.run is None:
                check_data(command.stages or (), sections, module)
                command.check_prompts(sections, store)
                if command.stages:
                    embed_experiment(command.stages, command.has_suites, sections)
        if self.start.untrained:
            train_missing(config, self.start, self.arguments, run_experiment)
        with user_errors():
            self._settle_directory(run)

    def _untrained(self) -> dict[str, NoiseHypernetModule | None]:
        """The modules, without weights, of other experiments that are to be trained first, by the network's name.

        Raises:
            UserError: if something is wrong with one of them; names its file.
        """
        modules = {}
        for name, words in training_commands(self.config, self.start, self.arguments).items():
            file = self.start.untrained[name][1]
            if file == self.experiment_file:
                continue
            try:
                modules[name] = SettledExperiment(words).module_on_meta
            except UserError as error:
                raise UserError(f"{file}, which would be trained for the comparison's {name}: {error}") from None
        return modules

    def _settle_directory(self, run: RunDirectory) -> None:
        """Choose the run's name and directory, and lock it; where two runs without a name begin in the same second,
        the second one gets another name."""
        given = run.name or run_name_of_rank_zero()
        first = given or timestamp()
        for number in itertools.count(1):
            self.run_name = first if number == 1 else f"{first}_{number}"
            run.name = f"{self.name}_{self.run_name}" if self.command.is_beside_runs else self.run_name
            try:
                self._lock_directory(run)
                break
            except InUseError as error:
                if given is not None:
                    raise UserError(str(error)) from error
        self.directory = str(run.path)
        file = "config.yaml" if self.command.trains else f"{self.name}_config.yaml"
        self.save_config_kwargs = {"overwrite": True, "config_filename": file}

    def _lock_directory(self, run: RunDirectory) -> None:
        if not self.command.is_locked or rank_zero_only.rank != 0:
            return
        self.lock.enter_context(locked(run.path, is_folder=True))
        if self.command.trains and self.start.checkpoint is None:
            require_no_run(run.path)  # once more: one may have ended since it was looked at

    def instantiate_classes(self) -> None:
        if self.command.run is not None:
            return
        with user_errors(also=_OF_LIGHTNING), self._memory_errors():
            super().instantiate_classes()
            if self.start.weights is not None:
                self.model.load_trained(self.start.weights, self.config.trust_remote_code)
        if self.start.checkpoint is not None:
            self.config_init.ckpt_path = self.start.checkpoint

    def instantiate_trainer(self, **kwargs: Any) -> ExperimentTrainer:
        trainer = self.config_init.trainer
        named = [callback for callback in self.config_init.callbacks.values() if callback is not None]
        others = trainer.callbacks or []
        others = others if isinstance(others, list) else [others]
        options = {"callbacks": [*named, *others], "default_root_dir": self.directory, **kwargs}
        if trainer.logger is None:
            # Straight into the run's directory, so that everything of a run is in one place.
            suffix = {} if self.command.trains else {"filename_suffix": EVALUATION_EVENTS}
            options["logger"] = TensorBoardLogger(self.directory, "", "", default_hp_metric=False, **suffix)
        return super().instantiate_trainer(**options)

    def run(self) -> None:
        """Do the command's work.

        Raises:
            UserError: if there is something to mend before batches are worked on, or memory is too small.
            SystemExit: if the process is told to end (SIGTERM).
        """
        with self.lock:
            self._run()

    def _run(self) -> None:
        if self.command.run is not None:
            self.command.run(self.config)
            return
        if self.command.trains and self.start.checkpoint is None and self.trainer.is_global_zero:
            remove_leftovers(Path(self.directory))
        try:
            with (
                user_errors(only_if=lambda: not self.trainer.is_working, also=_OF_LIGHTNING),
                run_name_for_others(self.run_name),
                self._memory_errors(),
            ):
                getattr(self.trainer, self.name)(**self._trainer_arguments())
        except TrainingStopped as error:
            raise UserError(str(error)) from error
        except SIGTERMException:  # of a test or prediction; it would be status 0
            raise SystemExit(128 + signal.SIGTERM) from None
        if self.start.shown is not None:
            say(f"weights      {self.start.shown}")

    @contextmanager
    def _memory_errors(self) -> Iterator[None]:
        """Turn the error of a memory that is too small into a message that says what needs less."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(out_of_memory_message(error, self.name, self.config.clone().as_dict())) from error

    def _trainer_arguments(self) -> dict[str, Any]:
        """Arguments of the trainer's method: the model, its options, and what it takes besides."""
        arguments = {"model": self.model, **{name: self.config_init[name] for name in self.options}}
        if "datamodule" in self.command.without and self.datamodule is not None:
            arguments["datamodule"] = self.datamodule
        if "comparison" in self.command.without:
            arguments["comparison"] = self.config_init.comparison
            arguments["settings"] = comparison_settings(self.parser, self.config)
        if "trust_remote_code" in self.command.without:
            arguments["trust_remote_code"] = self.config.trust_remote_code
        return arguments | self.command.arguments


class SettledExperiment(HnCLI):
    """The complete configuration of a command, looked at and not run.

    Attributes:
        module_on_meta: the module without weights; None if it cannot be made so.
    """

    def _set_seed(self) -> None:
        """Nothing: nothing is drawn."""

    def before_instantiate_classes(self) -> None:
        """Whether the objects can be made, as far as it shows without weights."""
        with user_errors():
            self.module_on_meta = check_model(self.config.clone().as_dict())

    def instantiate_classes(self) -> None:
        """Nothing."""

    @property
    def folder(self) -> Path:
        """The run's directory, which may not be there."""
        return RunDirectory(**vars(self.config.run)).path


def run_experiment(arguments: Sequence[str]) -> HnCLI:
    """Run one command of an experiment.

    Args:
        arguments: the command line after `hn`.

    Returns:
        It, with the configuration and what was made of it.

    Raises:
        UserError: if the command line or the configuration is wrong.
    """
    with helpful_messages_only():
        command = HnCLI(arguments)
        command.run()
        return command
