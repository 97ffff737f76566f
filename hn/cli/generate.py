"""`hn generate --generator ...`: images without an experiment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hn.cli.experiment import USAGE
from hn.cli.instances import instantiate, instantiate_on_meta
from hn.cli.models import add_model_options, find_models
from hn.cli.parsing import Parser, helpful_parsing, user_errors, verb_parser, with_flag_values
from hn.data.prompts import read_prompts
from hn.evaluation.generate import ImageRequest, generate_images
from hn.generators.base import Generator
from hn.training.run_directory import timestamp
from hn.utils.device import find_device
from hn.utils.files import require_unused

GENERATE_USAGE = "hn generate --generator ID_OR_FOLDER [--hypernet ID_OR_FOLDER] --prompt PROMPT [--OPTION VALUE ...]"
GENERATE_DESCRIPTION = f"""Make images of prompts, by a generator alone or with a hypernetwork or fine-tune.

The form with an experiment is {USAGE.format(verb="generate")} --prompt PROMPT; its options are listed by
hn generate --config experiments/NAME.yaml --help."""


def generate_parser() -> Parser:
    """Options of `hn generate` without an experiment."""
    parser = verb_parser("generate", GENERATE_USAGE, GENERATE_DESCRIPTION)
    add = parser.add_argument
    add_model_options(
        parser,
        hypernet="Hub id or folder of a hypernetwork or fine-tune that hn saved, or of a published LoRA adapter; "
        "without it the generator's own images are made.",
    )
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
    return parser


def generate_without_experiment(arguments: Sequence[str]) -> None:
    """`hn generate --generator ...`: no experiment, so no rewards, prompts of its own or trainer.

    Raises:
        UserError: if there is something to mend, before anything heavy happens as far as it can be known.
    """
    parser = generate_parser()
    with helpful_parsing(parser, arguments):
        options = parser.parse_args(with_flag_values(arguments, ("--compare", "--merge")))
        if options.generator is None:
            parser.error(f"Name a generator, or an experiment (--config): {GENERATE_USAGE}")
        if (options.prompt is None) == (options.prompts is None):
            parser.error("Give prompts, either with --prompt or in a file with --prompts.")
        of_hypernet = ("hypernet_revision", "last_layer_rule", "alpha", "compare", "merge")
        if options.hypernet is None and any(options[name] for name in of_hypernet):
            parser.error(f"{', '.join(f'--{name}' for name in of_hypernet if options[name])} needs --hypernet.")
    with user_errors():
        prompts = [row["prompt"] for row in read_prompts(options.prompts)] if options.prompts else options.prompt
        numbers = ("count", "seed", "steps", "batch_size", "upscale")
        request = ImageRequest(prompts, **{name: options[name] for name in numbers})
        device = find_device(options.device)
        if options.output is not None:
            require_unused(Path(options.output))
        section, trained = find_models(options)
        generate_images(
            make_generator=lambda: instantiate("generator", Generator, section),
            make_on_meta=lambda: instantiate_on_meta(section),
            request=request,
            directory=Path(options.output or Path("runs") / "generate" / timestamp()),
            trained=trained,
            compare=options.compare,
            device=device,
        )
