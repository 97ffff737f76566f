"""`hn geneval`: GenEval's verdicts on a folder of images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from hn.class_path import class_path
from hn.cli.parsing import Parser, UserError, helpful_parsing, user_errors, verb_parser, with_flag_values
from hn.config import read_section
from hn.data.images import image_sizes, read_geneval_folder
from hn.device import find_device
from hn.evaluation.detectors import Detector, GenEvalDetector
from hn.evaluation.geneval import VerdictOptions
from hn.geneval import judge_files, require_same_judge
from hn.pretrained import repositories_in, require_repositories
from hn.shard import Shard

GENEVAL_USAGE = "hn geneval --images FOLDER [--detector FILE.yaml|CLASS_PATH] [--output FILE] [--OPTION VALUE ...]"
GENEVAL_DESCRIPTION = """Judge a folder of images in GenEval's layout, as hn predict writes it, by GenEval's rules.

Run again, it continues where it was interrupted. Several GPUs share the work if torchrun starts it on each:

  torchrun --nproc_per_node 8 -m hn geneval --images FOLDER"""
SECTION = "callbacks.evaluation.init_args.detector"
"""Where an experiment names its detector."""


def geneval_parser() -> Parser:
    """Options of `hn geneval`."""
    parser = verb_parser("geneval", GENEVAL_USAGE, GENEVAL_DESCRIPTION)
    add = parser.add_argument
    add("--images", help="Folder with 00000/metadata.jsonl, 00000/samples/0000.png and so on.")
    add("--detector", help="Class path, or YAML file with an experiment's "
        f"{SECTION}, or with such a section alone; Mask2Former and CLIP if not given.")  # fmt: skip
    add("--output", help="JSON lines to write or to continue; geneval.jsonl in the folder of images if not given.")
    add("--allow_uneven", type=bool, default=False, help="Take prompts with different numbers of images.")
    add("--batch_size", type=int, default=8, help="Images judged at once.")
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps, or auto for the GPU if there is one.")
    add("--shard", help="The share of this process, like 0/4 for the first of four; torchrun's if not given. "
        "The last one to end joins all verdicts.")  # fmt: skip
    parser.add_class_arguments(VerdictOptions, "options")
    return parser


def judge_folder(arguments: Sequence[str]) -> None:
    """`hn geneval`: verdicts on images on disk.

    Raises:
        UserError: if there is something to mend, before weights are loaded as far as it can be known.
    """
    parser = geneval_parser()
    with helpful_parsing(parser, arguments):
        given = parser.parse_args(with_flag_values(arguments, ("--allow_uneven",)))
        if given.images is None:
            parser.error(f"Give --images: {GENEVAL_USAGE}")
    with user_errors():
        if given.batch_size < 1:
            raise UserError(f"batch_size must be at least 1, not {given.batch_size}.")
        options = VerdictOptions(**vars(given.options))
        shard = Shard.of_environment() if given.shard is None else Shard.parse(given.shard)
        device = _own_device(find_device(given.device))
        folder = Path(given.images)
        files = read_geneval_folder(folder, given.allow_uneven)
        output = Path(given.output or folder / "geneval.jsonl")
        if output.is_dir() or output.suffix != ".jsonl":
            raise UserError(f"--output {output} has to be a file that ends in .jsonl.")
        detectors = Parser()
        detectors.add_argument("--detector", type=Detector)
        config = detectors.parse_object({"detector": detector_section(given.detector)})
        section = config.clone().as_dict()["detector"]
        facts: dict[str, Any] = {
            "detector": section,
            "options": asdict(options),
            "images": given.images,
            "device": str(device),
            "batch_size": given.batch_size,
        }
        require_same_judge(output, facts)
        require_repositories(repositories_in(section))
        judge_files(
            files,
            image_sizes(files),
            make_detector=lambda: detectors.instantiate(config).detector,
            output=output,
            facts=facts,
            folder=folder,
            options=options,
            batch_size=given.batch_size,
            device=device,
            shard=shard,
        )


def detector_section(word: str | None) -> dict[str, Any]:
    """Class path and arguments of what `--detector` means.

    Raises:
        FileNotFoundError, ValueError: if the file is missing or wrong, or describes no detector.
    """
    if word is None:
        return {"class_path": class_path(GenEvalDetector)}
    if Path(word).suffix not in (".yaml", ".yml"):
        return {"class_path": word}
    section = read_section(word, SECTION)
    if "class_path" not in section:
        raise ValueError(f"{word} describes no detector: it has neither `{SECTION}` nor `class_path` with `init_args`.")
    return section


def _own_device(device: torch.device) -> torch.device:
    """The GPU of this one of the processes that `torchrun` started, if no particular one was asked for.

    Raises:
        ValueError: if there are more processes than GPUs.
    """
    rank = os.environ.get("LOCAL_RANK")
    return find_device(f"cuda:{rank}") if device == torch.device("cuda") and rank is not None else device
