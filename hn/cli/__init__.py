"""The command line, the only place that parses arguments.

`hn COMMAND [--OPTION VALUE ...]`; `COMMANDS` below lists the commands. Each is imported when it is asked for, so that
`hn --help` and `hn prompts` do without PyTorch. Errors that a user can correct are one message, with exit status
2; HN_TRACEBACK=1 in the environment adds the traceback.

From `hn train` to the optimiser's step, the files to read are, in this order:

1. hn/__main__.py: the entry point.
2. hn/cli/__init__.py: finds the command in `COMMANDS`, and imports it.
3. hn/cli/experiment.py: `HnCLI` parses the configuration, checks it, makes the objects and calls `ExperimentTrainer`.
4. hn/cli/subcommands.py: what `train` needs before it starts, a row of a table.
5. hn/training/trainer.py: `train` is Lightning's `fit`, then weights, test and results.
6. hn/data/module.py: the prompts, as batches.
7. hn/training/module.py: `configure_optimizers`, and `training_step`, which calls what follows before Lightning steps.
8. hn/generators/noise.py: the noise x0.
9. hn/hypernets/lora.py: the hypernetwork f.
10. hn/generators/pipeline_generator.py: the frozen generator g, which makes images of x0 + f(x0).
11. hn/rewards/ensemble.py: the reward r of these images.
12. hn/objective.py: the loss, `regulariser(f) - reward_weight * r`.
"""

from __future__ import annotations

import difflib
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from hn import __version__
from hn.cli.environment import invalid_rank, is_one_of_several
from hn.cli.parsing import UserError
from hn.utils.bundled import find_argument_paths
from hn.utils.text import require_unicode, say

USAGE = "hn COMMAND [--OPTION VALUE ...]"
DESCRIPTION = "Noise hypernetworks for few-step image generators."


@dataclass(frozen=True)
class Command:
    """A command of `hn`.

    Attributes:
        function: "module:function" that runs it on the arguments after the command's name.
        help: what it does, in one line.
        is_of_experiment: whether it is one of an experiment (`--config NAME`); its function takes the command's name
            too, as the first argument.
        is_old_name: whether it is an old name of another command, which lists of commands leave out.
    """

    function: str
    help: str
    is_of_experiment: bool = False
    is_old_name: bool = False

    def run(self, name: str, arguments: Sequence[str]) -> None:
        """Import the command's module and run its function."""
        module, _, function = self.function.partition(":")
        run = getattr(import_module(module), function)
        run([name, *arguments] if self.is_of_experiment else list(arguments))


def _of_experiment(help: str) -> Command:
    return Command("hn.cli.experiment:run_experiment", help, is_of_experiment=True)


COMMANDS = {
    "train": _of_experiment("Train an experiment, test the best checkpoint, and write results and images."),
    "compare": _of_experiment("Compare base, hypernetwork, fine-tune and test-time searches on the same noise."),
    "generate": Command("hn.cli.generate:generate", "Make images of prompts, with an experiment or any generator."),
    "plan": _of_experiment("Count the memory of a training update, without a GPU and without weights."),
    "embed": _of_experiment("Write the text embeddings of an experiment's prompts to files."),
    "study": Command("hn.cli.study.command:study", "Train an experiment once for each value of an option."),
    "fit": _of_experiment("Train an experiment without the test at the end."),
    "validate": _of_experiment("Measure trained weights on the validation prompts."),
    "test": _of_experiment("Measure trained weights on the test prompts."),
    "predict": _of_experiment("Write images of the prediction prompts, by trained weights."),
    "score": Command("hn.cli.score:score_folder", "Score a folder of images with rewards and benchmarks."),
    "geneval": Command("hn.cli.score:geneval_alias", "Old name of `hn score --metrics geneval`.", is_old_name=True),
    "judge": Command("hn.cli.score:judge_alias", "Old name of `hn score --metrics NAME`.", is_old_name=True),
    "report": Command("hn.cli.report:draw_report", "Draw a comparison's report again, without measuring."),
    "export": Command(
        "hn.cli.export:export",
        "Write a hypernetwork as one file that needs no hn (.pt2, .onnx), or a generator as ONNX models.",
    ),
    "prompts": Command("hn.cli.prompts:run_prompts", "List, show, fetch and check prompt sets."),
}
SHOWN = {name: command for name, command in COMMANDS.items() if not command.is_old_name}
"""The commands that `hn --help` lists."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; exits with status 2 and one message for an error that the user can mend."""
    replace_unknown_characters()
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        for word in arguments:
            require_unicode(word, "The argument")
    except ValueError as error:
        say(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    arguments = find_argument_paths(arguments)
    if (problem := invalid_rank(os.environ)) is not None:
        say(f"error: {problem}", file=sys.stderr)
        raise SystemExit(2)
    try:
        run_command(arguments)
    except UserError as error:
        if os.environ.get("HN_TRACEBACK"):
            raise
        say(f"{_rank_prefix()}error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # of which Lightning makes status 1
            raise SystemExit(130) from None
        raise
    except KeyboardInterrupt:
        if os.environ.get("HN_TRACEBACK"):
            raise
        say("interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def replace_unknown_characters() -> None:
    """Let the terminal show a question mark for characters that its encoding does not have, like lines of tables."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")


def run_command(arguments: Sequence[str]) -> None:
    """Run the command that the first argument names; print the help without one.

    Raises:
        UserError: if there is no such command, or as the command does.
    """
    name = arguments[0] if arguments else "--help"
    if name in ("--help", "-h"):
        say(help_text())
    elif name == "--version":
        say(f"hn {__version__}")
    elif name in COMMANDS:
        COMMANDS[name].run(name, arguments[1:])
    elif name.startswith("-"):
        raise UserError(f"The command comes first: {USAGE}\nThe commands are listed by: hn --help")
    else:
        nearest = difflib.get_close_matches(name, SHOWN, n=1)
        hint = f", did you mean {nearest[0]}?" if nearest else "."
        raise UserError(f"Unknown command {name!r}{hint} The commands are {', '.join(SHOWN)}.")


def help_text() -> str:
    """What `hn --help` shows."""
    commands = [f"    {name:<10} {command.help}" for name, command in SHOWN.items()]
    of_experiment = ", ".join(name for name, command in SHOWN.items() if command.is_of_experiment)
    return "\n".join(
        [
            f"usage: {USAGE}",
            "",
            DESCRIPTION,
            "",
            "commands:",
            *commands,
            "",
            f"{of_experiment} run an experiment:",
            "    hn train --config NAME|FILE.yaml [--OPTION VALUE ...]",
            "The options of a command are listed by: hn COMMAND --help",
        ]
    )


def _rank_prefix() -> str:
    """The prefix of an error: the rank if there are several processes, else nothing."""
    if not is_one_of_several(os.environ):
        return ""
    from hn.cli.processes import leave_the_error_to_rank_zero  # imports Lightning, which knows the process's rank

    return leave_the_error_to_rank_zero()
