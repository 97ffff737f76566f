"""The command line, the only place that parses arguments.

`hn VERB --config experiments/X.yaml [--trainer.max_steps 100 ...]` with LightningCLI's fit, validate, test, predict,
train, compare, embed, plan and generate; without an experiment `hn generate --generator ...`, `hn export`, `hn score`,
`hn report` and `hn prompts`; `hn study --config experiments/studies/X.yaml` is several
trainings. What a user can mend is said in one message, with exit status 2; HN_TRACEBACK=1 in the environment adds the
traceback.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence

from lightning.pytorch.utilities.exceptions import SIGTERMException

from hn.cli.experiment import run_experiment
from hn.cli.export import export
from hn.cli.generate import generate_without_experiment
from hn.cli.parsing import UserError, helpful_messages_only
from hn.cli.processes import leave_the_error_to_rank_zero
from hn.cli.prompts import run_prompts
from hn.cli.report import draw_report
from hn.cli.score import geneval_alias, judge_alias, score_folder
from hn.cli.study.run import run_study
from hn.utils.bundled import find_argument_paths


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; exits with status 2 and one message for an error of the user's."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    arguments = find_argument_paths(sys.argv[1:] if arguments is None else arguments)
    others = {
        "export": export,
        "score": score_folder,
        "geneval": geneval_alias,
        "judge": judge_alias,
        "prompts": run_prompts,
        "report": draw_report,
        "study": run_study,
    }
    if not has_config(arguments):
        others["generate"] = generate_without_experiment
    try:
        with helpful_messages_only():
            if arguments and arguments[0] in others:
                others[arguments[0]](arguments[1:])
            else:
                run_experiment(arguments)
    except UserError as error:
        if os.environ.get("HN_TRACEBACK"):
            raise
        print(f"{leave_the_error_to_rank_zero()}error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except SIGTERMException:  # Lightning's, of a test or prediction, which would be status 0
        raise SystemExit(128 + signal.SIGTERM) from None
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # of which Lightning makes status 1
            raise SystemExit(130) from None
        raise
    except KeyboardInterrupt:
        if os.environ.get("HN_TRACEBACK"):
            raise
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def has_config(arguments: Sequence[str]) -> bool:
    """Whether an experiment is named."""
    return any(word.partition("=")[0] in ("--config", "-c") for word in arguments)
