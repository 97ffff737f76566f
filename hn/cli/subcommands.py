"""The commands of an experiment as a table: what each needs before it starts, and what it calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from hn.cli.compare import check_category, check_compare, check_networks, find_compared
from hn.cli.embed import embedded_parts, run_embed, with_caches
from hn.cli.plan import add_plan_options, planned_parts, run_plan, without_compilers
from hn.cli.preflight import check_fit, check_request
from hn.cli.starting_point import StartingPoint, continue_run, pass_weights, trained_weights
from hn.data.store import PromptStore
from hn.training.module import NoiseHypernetModule
from hn.training.run_directory import RunDirectory

Sections = Mapping[str, Any]
"""A configuration as plain mappings: "model", "data", "trainer", "callbacks" and so on."""


@dataclass(frozen=True)
class Subcommand:
    """A command of an experiment, as a rule a method of `ExperimentTrainer` of the same name.

    Attributes:
        stages: the stages of Lightning whose prompts it needs: they are fetched, and encoded where there is a `cache`.
            None for all that the data module has prompts for.
        has_suites: whether `PromptSuite` callbacks take part, and need their prompts.
        trains: whether it trains, so that `config.yaml` is its configuration's file.
        is_single_process: whether it refuses to be started several times, by torchrun or srun.
        is_beside_runs: whether its directory is one of its own, <name>_<run>, so that a run's results stay.
        is_locked: whether no other process may write to its directory meanwhile.
        without: arguments of the trainer's method that are no options.
        arguments: arguments of the trainer's method that are always the same.
        prepare: changes the configuration's model before anything is checked.
        parts: the parts of the configuration whose files on the Hub it needs.
        check: further checks, of the configuration and the module without weights (None if there is no such thing).
        check_prompts: further checks once prompts are fetched, of the configuration and where they are kept.
        find_start: finds the weights that it starts from. Takes the configuration, the run's directory and the
            experiment's file.
        check_start: further checks of these weights, of the configuration, the modules without weights of experiments
            that are trained first, and the command's own such module.
        add_options: adds its options, if it is no method of the trainer.
        run: runs it on the configuration, if it is no method of the trainer; it makes no run and no objects then.
    """

    stages: tuple[str, ...] | None
    has_suites: bool = False
    trains: bool = False
    is_single_process: bool = False
    is_beside_runs: bool = False
    is_locked: bool = False
    without: frozenset[str] = frozenset({"model", "datamodule"})
    arguments: Mapping[str, Any] = field(default_factory=dict)
    prepare: Callable[[Namespace], None] = lambda model: None
    parts: Callable[[Sections], list[Any]] = lambda sections: [sections[n] for n in ("model", "data", "callbacks")]
    check: Callable[[Sections, NoiseHypernetModule | None], None] = lambda sections, module: None
    check_prompts: Callable[[Sections, PromptStore], None] = lambda sections, store: None
    find_start: Callable[[Namespace, RunDirectory, str | None], StartingPoint] = trained_weights
    check_start: Callable[[Namespace, Mapping[str, NoiseHypernetModule | None], NoiseHypernetModule | None], None] = (
        lambda config, untrained, module: None
    )
    add_options: Callable[[LightningArgumentParser], None] | None = None
    run: Callable[[Namespace], None] | None = None


def without_caches(model: Namespace) -> None:
    """Encode prompts as they come: those of `hn generate` are in no file, and are not kept."""
    for section in (model.generator, model.reward):
        if "cache" in section.get("init_args", {}):
            section.init_args.cache = False


_DATALOADERS = frozenset({"model", "dataloaders", "datamodule"})

SUBCOMMANDS = {
    "train": Subcommand(
        ("fit", "test"), has_suites=True, trains=True, is_locked=True, check=check_fit, find_start=continue_run
    ),
    "compare": Subcommand(
        ("test",),
        is_single_process=True,
        is_beside_runs=True,
        is_locked=True,
        without=frozenset({"model", "datamodule", "comparison", "settings", "trust_remote_code"}),
        check=check_compare,
        check_prompts=check_category,
        find_start=find_compared,
        check_start=check_networks,
    ),
    "generate": Subcommand(
        (),
        is_single_process=True,
        is_beside_runs=True,
        without=frozenset({"model", "trust_remote_code"}),
        prepare=without_caches,
        check=check_request,
        find_start=pass_weights,
    ),
    "plan": Subcommand(
        (),
        is_single_process=True,
        prepare=without_compilers,
        parts=planned_parts,
        add_options=add_plan_options,
        run=run_plan,
    ),
    "embed": Subcommand(
        None,
        has_suites=True,
        is_single_process=True,
        prepare=with_caches,
        parts=embedded_parts,
        add_options=lambda parser: None,
        run=run_embed,
    ),
    "fit": Subcommand(
        ("fit",),
        has_suites=True,
        trains=True,
        is_locked=True,
        without=frozenset({"model", "train_dataloaders", "val_dataloaders", "datamodule"}),
        check=check_fit,
        find_start=continue_run,
    ),
    "validate": Subcommand(("validate",), without=_DATALOADERS),
    "test": Subcommand(("test",), has_suites=True, is_locked=True, without=_DATALOADERS),
    "predict": Subcommand(
        ("predict",),
        is_locked=True,
        without=_DATALOADERS | {"return_predictions"},
        # Images are written as they come, not kept in memory until the end.
        arguments={"return_predictions": False},
    ),
}
