"""`hn generate`: images of prompts, by an experiment's model (`hn.cli.experiment`) or without an experiment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hn.cli.models import add_model_options, find_models
from hn.cli.parsing import (
    EXPERIMENT_USAGE,
    Parser,
    command_parser,
    helpful_messages_only,
    helpful_parsing,
    user_errors,
    with_flag_values,
)
from hn.data.formats import read_prompts
from hn.training.run_directory import timestamp
from hn.utils.files import require_unused

GENERATE_USAGE = "hn generate --generator ID_OR_FOLDER [--hypernet ID_OR_FOLDER] --prompt PROMPT [--OPTION VALUE ...]"
GENERATE_DESCRIPTION = f"""Make images of prompts, by a generator alone or with a hypernetwork or fine-tune.

The form with an experiment is {EXPERIMENT_USAGE.format(command="generate")} --prompt PROMPT; its options are listed by
hn generate --config NAME --help."""


def generate_parser() -> Parser:
    """Options of `hn generate` without an experiment."""
    parser = command_parser("generate", GENERATE_USAGE, GENERATE_DESCRIPTION)
    add = parser.add_argument
    add_model_options(
        parser,
        hypernet="Hub id or folder of a hypernetwork or fine-tune that hn saved, or of a published LoRA adapter; "
        "without it the generator's own images are made.",
    )
    add("--prompt", nargs="+", action="extend", help="One prompt or several, each in quotes.")
    add("--prompts", help="File of prompts: .txt with one a line, or .jsonl with objects that have a `prompt`; "
        "each has noise of its own.")  # fmt: skip
    add("--same_noise", type=bool, default=False, help="Make image k of all prompts of a file from the same noise.")
    add("--compare", type=bool, default=False, help="Make the generator's own images too, from the same noise, and an "
        "overview of both.")  # fmt: skip
    add("--count", type=int, default=4, help="Images of each prompt.")
    add("--seed", type=int, default=0, help="Seed of the noise: image k of a prompt depends on it and k, "
        "and on the prompt's place in a file.")  # fmt: skip
    add("--steps", type=int, help="Sampling steps; the generator's own number if not given.")
    add("--batch_size", type=int, default=1, help="Images made at once; with 1 an image does not depend, to the last "
        "bit, on the others.")  # fmt: skip
    add("--best_of", type=int, help="Make so many images in the place of each, of which --reward chooses one.")
    add("--reward", help="What chooses: a reward by its name, as hn score --metrics takes it, or class path, or a YAML "
        "file, like an experiment's, whose weighted sum it is then.")  # fmt: skip
    add("--keep_candidates", type=bool, default=False, help="Write all images among which --best_of chooses, too.")
    add("--output", help="Folder to write to, new or empty; runs/generate/<time> if not given.")
    add("--upscale", type=int, help="Integer upscaling factor of the overview.")
    return parser


def generate(arguments: Sequence[str]) -> None:
    """`hn generate`: with `--config` of an experiment, without it of a generator, so with no rewards or trainer.

    Raises:
        UserError: if there is something to mend, before anything heavy happens as far as it can be known.
    """
    if has_config(arguments):
        from hn.cli.experiment import run_experiment

        run_experiment(["generate", *arguments])
        return
    parser = generate_parser()
    with helpful_parsing(parser, arguments):
        options = parser.parse_args(
            with_flag_values(arguments, ("--compare", "--merge", "--keep_candidates", "--same_noise"))
        )
        if options.generator is None:
            parser.error(f"Name a generator, or an experiment (--config): {GENERATE_USAGE}")
        if (options.prompt is None) == (options.prompts is None):
            parser.error("Give prompts, either with --prompt or in a file with --prompts.")
        of_hypernet = ("hypernet_revision", "last_layer_rule", "alpha", "compare", "merge", "trust_remote_code")
        if options.hypernet is None and any(options[name] for name in of_hypernet):
            parser.error(f"{', '.join(f'--{name}' for name in of_hypernet if options[name])} needs --hypernet.")
        if (options.best_of is None) != (options.reward is None):
            parser.error("--best_of N and --reward go together: the reward chooses one of N images.")
    with user_errors(), helpful_messages_only():
        _generate_images(options)


def has_config(arguments: Sequence[str]) -> bool:
    """Whether an experiment is named."""
    return any(word.partition("=")[0] in ("--config", "-c") for word in arguments)


def _generate_images(options: Any) -> None:
    from hn.cli.instances import generator_on_meta, instantiate  # here, for a help without PyTorch
    from hn.evaluation.generate import ImageRequest, generate_images
    from hn.generators.base import Generator
    from hn.rewards.ensemble import RewardEnsemble
    from hn.rewards.named import choosing_section
    from hn.utils.device import find_device
    from hn.utils.hub import repositories_in, require_repositories

    prompts = [row["prompt"] for row in read_prompts(options.prompts)] if options.prompts else options.prompt
    names = ("count", "seed", "steps", "batch_size", "upscale", "best_of", "keep_candidates")
    own_noise = bool(options.prompts) and not options.same_noise
    request = ImageRequest(prompts, **{name: options[name] for name in names}, own_noise=own_noise)
    device = find_device(options.device)
    if options.output is not None:
        require_unused(Path(options.output))
    reward = None if options.reward is None else choosing_section(options.reward)
    if reward is not None:
        require_repositories(repositories_in(reward))
    section, trained = find_models(options)
    generate_images(
        make_generator=lambda: instantiate("generator", Generator, section),
        make_on_meta=lambda: generator_on_meta(section),
        request=request,
        directory=Path(options.output or Path("runs") / "generate" / timestamp()),
        trained=trained,
        compare=options.compare,
        device=device,
        make_reward=None if reward is None else lambda: instantiate("reward", RewardEnsemble, reward),
    )
