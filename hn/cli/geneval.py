"""`hn geneval`: GenEval's verdicts on a folder of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hn.cli.judging import SHARING, JudgingOptions, add_judging_options
from hn.cli.parsing import Parser, command_parser, helpful_messages_only, helpful_parsing, user_errors, with_flag_values
from hn.evaluation.detectors import Detector, GenEvalDetector
from hn.evaluation.folder.benchmarks import GenevalVerdicts, require_right_clauses
from hn.evaluation.folder.images import image_sizes, read_geneval_folder
from hn.evaluation.folder.score import judge_files, require_same_judge
from hn.evaluation.geneval import VerdictOptions
from hn.utils.class_path import class_path
from hn.utils.config import read_section
from hn.utils.hub import repositories_in, require_repositories

GENEVAL_USAGE = "hn geneval --images FOLDER [--detector FILE.yaml|CLASS_PATH] [--output FILE] [--OPTION VALUE ...]"
GENEVAL_DESCRIPTION = f"""Judge a folder of images in GenEval's layout, as hn predict writes it, by GenEval's rules.

{SHARING}geneval --images FOLDER"""
SECTION = "callbacks.evaluation.init_args.detector"
"""Where an experiment names its detector."""


def geneval_parser() -> Parser:
    """Options of `hn geneval`."""
    parser = command_parser("geneval", GENEVAL_USAGE, GENEVAL_DESCRIPTION)
    add = parser.add_argument
    add("--images", help="Folder with 00000/metadata.jsonl, 00000/samples/0000.png and so on.")
    add("--detector", help="Class path, or YAML file with an experiment's "
        f"{SECTION}, or with such a section alone; Mask2Former and CLIP if not given.")  # fmt: skip
    add_judging_options(parser, "geneval.jsonl in the folder of images")
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
    with user_errors(), helpful_messages_only():
        options = VerdictOptions(**vars(given.options))
        folder = Path(given.images)
        how = JudgingOptions.read(given, folder / "geneval.jsonl")
        files = read_geneval_folder(folder, given.allow_uneven)
        detectors = Parser()
        detectors.add_argument("--detector", type=Detector)
        config = detectors.parse_object({"detector": detector_section(given.detector)})
        section = config.clone().as_dict()["detector"]
        judging = GenevalVerdicts(lambda: detectors.instantiate(config).detector, options)
        facts: dict[str, Any] = {"detector": section, "options": asdict(options), "images": given.images, **how.facts}
        require_same_judge(how.output, facts, judging.depends_on)
        require_right_clauses(files)
        require_repositories(repositories_in(section))
        judge_files(
            judging, files, image_sizes(files), how.output, facts, folder, how.batch_size, how.device, how.shard
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
