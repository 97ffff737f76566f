"""The prompts that a command of an experiment needs: that their names are known, and that they are on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import LightningDataModule

from hn.data.module import PromptDataModule, check_names, fetch_sets
from hn.data.store import PromptStore
from hn.evaluation.suite import SuitePrompts
from hn.utils.class_path import import_class


def prompt_options(data: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Arguments of the configuration's `PromptDataModule` or a subclass of it; none if it has another data module."""
    if data is None or not issubclass(import_class(data["class_path"], LightningDataModule), PromptDataModule):
        return {}
    return data["init_args"]


def check_prompt_names(options: Mapping[str, Any], suites: Sequence[Mapping[str, Any]]) -> None:
    """Refuse prompts that are neither files nor known sets, before anything is fetched.

    Args:
        options: from `prompt_options`.
        suites: arguments of `PromptSuite`s.

    Raises:
        ValueError: as `check_names`.
    """
    check_names(options)
    for suite in suites:
        check_names({"test": suite["prompts"]})


def fetch_prompts(
    stages: Sequence[str] | None, options: Mapping[str, Any], suites: Sequence[Mapping[str, Any]], store: PromptStore
) -> None:
    """Fetch the named sets that are not here, and read those of suites to see that they are as they should be.

    Args:
        stages: of Lightning, whose prompts are needed; None for all.
        options: from `prompt_options`.
        suites: arguments of `PromptSuite`s.
        store: where named sets are kept.

    Raises:
        FileNotFoundError, ValueError, DownloadError: as `fetch_sets` and `SuitePrompts.read`.
    """
    if stages is None:
        fetch_sets(options, None, store)
    elif suites:
        stages = ("fit", *stages)  # a suite has to know what is trained on, in a test too
    for stage in stages or ():
        fetch_sets(options, stage, store)
    for suite in suites:
        fetch_sets({"test": suite["prompts"]}, "test", store)
        SuitePrompts.read(suite["prompts"], suite.get("category"), suite.get("limit"), store=store)
