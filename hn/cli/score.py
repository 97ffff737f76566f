"""`hn score`: rewards of a folder of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hn.cli.parsing import Parser, UserError, command_parser, helpful_messages_only, helpful_parsing, user_errors
from hn.evaluation.folder.images import check_images, read_image_folder
from hn.evaluation.folder.rewards import require_prompts, score_files
from hn.rewards.base import Reward
from hn.rewards.named import SHORT_NAMES, reward_sections
from hn.training.run_directory import timestamp
from hn.utils.class_path import import_class
from hn.utils.device import find_device
from hn.utils.dtype import parse_dtype
from hn.utils.files import require_unused
from hn.utils.hub import require_repositories

SCORE_USAGE = "hn score --rewards NAME[,NAME...] --images FOLDER [--prompts FILE] [--OPTION VALUE ...]"
SCORE_DESCRIPTION = """Score a folder of images with reward models, to JSON and CSV.

Folders that hn generate or hn predict wrote, or in GenEval's layout, have the prompts of their images; for others
--prompts names a file."""


def score_parser() -> Parser:
    """Options of `hn score`."""
    parser = command_parser("score", SCORE_USAGE, SCORE_DESCRIPTION)
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
    with helpful_parsing(parser, arguments):
        options = parser.parse_args(list(arguments))
        for name in ("rewards", "images"):
            if options[name] is None:
                parser.error(f"Give --{name}: {SCORE_USAGE}")
    with user_errors(), helpful_messages_only():
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
