"""`hn judge`: other benchmarks' metrics on a folder of images."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hn.cli.judging import SHARING, JudgingOptions, add_judging_options
from hn.cli.parsing import Parser, command_parser, helpful_messages_only, helpful_parsing, user_errors, with_flag_values
from hn.evaluation.benchmarks.base import Judge
from hn.evaluation.benchmarks.compbench import BlipVqaJudge, SpatialJudge
from hn.evaluation.benchmarks.geneval2 import SoftTifaJudge
from hn.evaluation.folder.benchmarks import JudgeScores
from hn.evaluation.folder.images import ImageFile, image_sizes, read_benchmark_images, require_even, with_rows
from hn.evaluation.folder.score import judge_files, require_same_judge
from hn.utils.class_path import class_path, import_class
from hn.utils.config import read_section
from hn.utils.hub import repositories_in, require_repositories

JUDGE_USAGE = "hn judge --judge NAME|FILE.yaml --images FOLDER|FILE.json [--prompts SET ...] [--OPTION VALUE ...]"
JUDGE_DESCRIPTION = f"""Score images as GenEval 2 (soft_tifa) and T2I-CompBench (blip_vqa for attributes; spatial) do.

{SHARING}judge --judge NAME --images FOLDER"""
SECTION = "judge"
"""Where a YAML file names its judge."""

JUDGES: Mapping[str, type[Judge]] = {"soft_tifa": SoftTifaJudge, "blip_vqa": BlipVqaJudge, "spatial": SpatialJudge}


def judge_parser() -> Parser:
    """Options of `hn judge`."""
    parser = command_parser("judge", JUDGE_USAGE, JUDGE_DESCRIPTION)
    add = parser.add_argument
    add("--judge", help=f"{', '.join(JUDGES)}; a class path; or a YAML file with the section `{SECTION}`, or with such "
        "a section alone.")  # fmt: skip
    add("--images", help="Folder that hn predict or hn generate wrote, or in T2I-CompBench's layout (samples/<prompt>_"
        "000000.png); or GenEval 2's JSON file of prompts and paths.")  # fmt: skip
    add("--prompts", nargs="+", action="extend", help="Prompt sets by name, like geneval2 or t2i_compbench/color/val, "
        "or files: only their images are judged, by these rows; by those of the folder if not given.")  # fmt: skip
    add_judging_options(parser, "<judge>.jsonl beside the images")
    return parser


def judge_benchmark(arguments: Sequence[str]) -> None:
    """`hn judge`: a judge's scores of images on disk.

    Raises:
        UserError: if there is something to mend, before weights are loaded as far as it can be known.
    """
    parser = judge_parser()
    with helpful_parsing(parser, arguments):
        given = parser.parse_args(with_flag_values(arguments, ("--allow_uneven",)))
        for name in ("judge", "images"):
            if given[name] is None:
                parser.error(f"Give --{name}: {JUDGE_USAGE}")
    with user_errors(), helpful_messages_only():
        judges = Parser()
        judges.add_argument("--judge", type=Judge)
        config = judges.parse_object({"judge": judge_section(given.judge)})
        section = config.clone().as_dict()["judge"]
        judge_class = import_class(section["class_path"], Judge)
        judging = JudgeScores(judge_class, lambda: judges.instantiate(config).judge)
        source = Path(given.images)
        folder = source.parent if source.suffix == ".json" else source
        how = JudgingOptions.read(given, folder / f"{_short_name(judge_class)}.jsonl")
        facts = {"judge": section, "images": given.images, "prompts": given.prompts, **how.facts}
        require_same_judge(how.output, facts, judging.depends_on)
        files = _files_to_judge(source, given.prompts, judge_class)
        if not given.allow_uneven:
            require_even(files)
        judge_class.check_rows([file.metadata for file in files], section.get("init_args", {}))
        require_repositories(repositories_in(section))
        judge_files(
            judging, files, image_sizes(files), how.output, facts, folder, how.batch_size, how.device, how.shard
        )


def judge_section(word: str) -> dict[str, Any]:
    """Class path and arguments of what `--judge` means.

    Raises:
        FileNotFoundError, ValueError: if it means nothing, or the file is missing or wrong, or describes no judge.
    """
    if word in JUDGES:
        return {"class_path": class_path(JUDGES[word])}
    if Path(word).suffix in (".yaml", ".yml"):
        section = read_section(word, SECTION)
        if "class_path" not in section:
            raise ValueError(f"{word} describes no judge: it has neither `{SECTION}` nor `class_path`.")
        return section
    if "." in word:
        return {"class_path": word}
    nearest = difflib.get_close_matches(word, JUDGES, n=1)
    hint = f"did you mean {nearest[0]}? " if nearest else ""
    raise ValueError(
        f"There is no judge {word!r}; {hint}Known are {', '.join(JUDGES)}, besides class paths and YAML files."
    )


def _short_name(judge_class: type[Judge]) -> str:
    return next((name for name, known in JUDGES.items() if known is judge_class), judge_class.__name__)


def _files_to_judge(source: Path, prompts: Sequence[str] | None, judge_class: type[Judge]) -> list[ImageFile]:
    """The images whose rows ask something that the judge can answer; says how many are left out.

    Raises:
        FileNotFoundError, ValueError: if there are none, or what names them is wrong.
    """
    files = read_benchmark_images(source)
    n_images = len(files)
    if prompts is not None:
        files, n_missing = with_rows(files, prompts)
        if n_missing:
            print(f"warning: {n_missing} of the prompts have no image")
    if len(files) < n_images:
        print(f"note: {n_images - len(files)} images are of other prompts and left out")
    asking = [file for file in files if judge_class.asks(file.metadata)]
    if not asking:
        raise ValueError(
            f"{_short_name(judge_class)} can judge none of the images: their prompts' rows have to have "
            f"{judge_class.needs}. --prompts names the set that they are of."
        )
    if len(asking) < len(files):
        print(f"note: {len(files) - len(asking)} images are left out, as their rows do not have {judge_class.needs}")
    return asking
