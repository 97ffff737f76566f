"""`hn score`: rewards, GenEval's verdicts and benchmark metrics of a folder of images."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from hn.cli.parsing import (
    Parser,
    UserError,
    command_parser,
    helpful_messages_only,
    helpful_parsing,
    user_errors,
    with_flag_values,
)
from hn.cli.processes import launcher
from hn.evaluation.benchmarks.base import BenchmarkMetric
from hn.evaluation.detectors import Detector, GenEvalDetector
from hn.evaluation.folder.benchmarks import BenchmarkScores, GenevalVerdicts
from hn.evaluation.folder.images import ImageFile, check_images, image_sizes
from hn.evaluation.folder.layouts import (
    read_benchmark_images,
    read_geneval_folder,
    read_image_folder,
    require_even,
    with_rows,
)
from hn.evaluation.folder.rewards import RewardScores, require_prompts, write_scores
from hn.evaluation.folder.score import (
    FolderMetric,
    Results,
    files_by_name,
    require_no_loss,
    require_same_settings,
    score_files,
    summary_file,
)
from hn.evaluation.folder.shard import WorkShard
from hn.evaluation.geneval import VerdictOptions
from hn.report.tables import benchmark_table, geneval_table, scores_table
from hn.rewards.base import Reward
from hn.rewards.named import SHORT_NAMES, reward_sections
from hn.utils.class_path import class_path, import_class
from hn.utils.config import read_config, read_section
from hn.utils.device import find_device
from hn.utils.dtype import parse_dtype
from hn.utils.hub import repositories_in, require_repositories
from hn.utils.lock import locked
from hn.utils.text import count_of, say, shortened, some_of

USAGE = "hn score --metrics NAME[,NAME...] FOLDER [--prompts FILE|SET ...] [--OPTION VALUE ...]"
DESCRIPTION = """Score a folder of images with rewards and with the metrics of benchmarks.

Folders that hn generate or hn predict wrote, or in GenEval's layout, have the prompts of their images; for others
--prompts names them. Results are JSON lines, a file for each metric, beside the images or in --output. Run again, the
command continues where it was interrupted. Several GPUs share the work if torchrun starts it on all:

  torchrun --nproc_per_node 8 -m hn score --metrics NAME[,NAME...] FOLDER"""

GENEVAL = "geneval"
BENCHMARKS: Mapping[str, str] = {
    "soft_tifa": "hn.evaluation.benchmarks.geneval2.SoftTifaMetric",
    "blip_vqa": "hn.evaluation.benchmarks.compbench.attributes.BlipVqaMetric",
    "spatial": "hn.evaluation.benchmarks.compbench.spatial.SpatialMetric",
}
"""Class paths of benchmark metrics by their short names."""
DETECTOR_SECTION = "callbacks.evaluation.init_args.detector"
"""Where an experiment names its detector."""
METRIC_SECTION = "metric"
"""Where a YAML file names its benchmark metric."""


def score_parser() -> Parser:
    """Options of `hn score`."""
    parser = command_parser("score", USAGE, DESCRIPTION)
    add = parser.add_argument
    add("--metrics", help=f"One or several, with commas between them. Rewards: {', '.join(SHORT_NAMES)}. "
        f"Benchmarks: {GENEVAL}, {', '.join(BENCHMARKS)}. Class paths of rewards and benchmark metrics. YAML files: an "
        f"experiment, of which all rewards are taken, or a file with the section `{METRIC_SECTION}`.")  # fmt: skip
    add("--rewards", nargs="+", action="extend", default=[], help="Old name of --metrics.")
    add("folder", nargs="?", help="Folder of PNG, JPEG or WebP files: what hn generate or hn predict wrote, or any "
        "other; for benchmark metrics also T2I-CompBench's layout (samples/<prompt>_000000.png). Or GenEval 2's JSON "
        "file of prompts and paths.")  # fmt: skip
    add("--images", help="Another way to give FOLDER.")
    add("--prompts", nargs="+", action="extend", help="For images without prompts: the file of their prompts, in the "
        "order of the files' names; .txt with one a line, or .jsonl with objects that have a `prompt`. For benchmark "
        "metrics: prompt sets by name, like geneval2 or t2i_compbench/color/val, or files; only their images are "
        "scored, by these rows.")  # fmt: skip
    add("--images_per_prompt", type=int, help="Number of consecutive images of one prompt of the file; 1 if not given.")
    add("--output", help="Folder for the results; that of the images if not given. For a single benchmark metric also "
        "a file that ends in .jsonl.")  # fmt: skip
    add("--batch_size", type=int, default=8, help="Images scored at once.")
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps, or auto for the GPU if there is one.")
    add("--dtype", help="Data type of the rewards' weights: float32, bfloat16, float16 or float64; if not given, what "
        "a YAML file says, else float32.")  # fmt: skip
    add("--allow_uneven", type=bool, default=False, help="For benchmarks: take prompts with different numbers of "
        "images.")  # fmt: skip
    add("--shard", help="The share of this process, like 0/4 for the first of four; torchrun's if not given. "
        "The last one to end joins all results.")  # fmt: skip
    add("--detector", help=f"For {GENEVAL}: class path, or YAML file with an experiment's {DETECTOR_SECTION}, or with "
        "such a section alone; Mask2Former and CLIP if not given.")  # fmt: skip
    parser.add_class_arguments(VerdictOptions, GENEVAL, as_group=False)  # a group has an option --geneval CONFIG too
    return parser


def score_folder(arguments: Sequence[str]) -> None:
    """`hn score`: scores of images on disk.

    Raises:
        UserError: if there is something to mend, before weights are loaded as far as it can be known.
    """
    parser = score_parser()
    with helpful_parsing(parser, arguments):
        given = parser.parse_args(with_flag_values(arguments, ("--allow_uneven",)))
        words = [word.strip() for part in (given.metrics or "", *given.rewards) for word in part.split(",")]
        words = [word for word in words if word]
        if not words:
            parser.error(
                f"Missing: --metrics. Usage: {USAGE}\nRewards: {', '.join(SHORT_NAMES)}.\n"
                f"Benchmarks: {GENEVAL}, {', '.join(BENCHMARKS)}.\nAlso class paths and YAML files."
            )
        if (given.folder is None) == (given.images is None):
            parser.error(f"Give FOLDER, once: {USAGE}")
        given.folder = given.folder or given.images
    _score(words, given)


def geneval_alias(arguments: Sequence[str]) -> None:
    """`hn geneval`, the old name of `hn score --metrics geneval`; raises as `score_folder`."""
    _note_alias("geneval", "score --metrics geneval", arguments)
    renamed = [word.replace("--options.", f"--{GENEVAL}.", 1) for word in arguments]
    score_folder(["--metrics", GENEVAL, *renamed])


def judge_alias(arguments: Sequence[str]) -> None:
    """`hn judge --judge NAME`, the old name of `hn score --metrics NAME`; raises as `score_folder`."""
    _note_alias("judge --judge NAME", "score --metrics NAME", arguments)
    score_folder([word.replace("--judge", "--metrics", 1) for word in arguments])


def _note_alias(old: str, new: str, arguments: Sequence[str]) -> None:
    """Say what an old name stands for; that is all of its help."""
    note = f"`hn {old}` is an alias of `hn {new}` and will be removed in the next release; use that."
    if {"--help", "-h"} & {*arguments}:
        say(f"{note}\nThe options are listed by: hn score --help")
        raise SystemExit(0)
    say(f"note: {note}", file=sys.stderr)


def _score(words: Sequence[str], given: Namespace) -> None:
    with user_errors(), helpful_messages_only(), ExitStack() as stack:
        if given.batch_size < 1:
            raise UserError(f"batch_size must be at least 1, not {given.batch_size}.")
        if given.dtype is not None:
            parse_dtype(given.dtype)
        device, shard = own_device(find_device(given.device)), own_shard(given.shard)
        source = Path(given.folder)
        folder = source.parent if source.suffix == ".json" else source
        metrics = _metrics(words, given)
        outputs = _outputs(given.output, folder, metrics)
        for metric, output in outputs.items():
            require_same_settings(output, metric)
        files = _files_by_metric(source, metrics, given)
        for output in outputs.values():
            stack.enter_context(locked(shard.file(output), is_folder=False))
        for metric, output in outputs.items():
            require_no_loss(output, metric, files_by_name(files[metric], folder), folder)
        require_repositories(repositories_in([metric.settings for metric in metrics]))
        every = list({file.path: file for of_metric in files.values() for file in of_metric}.values())
        sizes = (check_images if _has_rewards(metrics) else image_sizes)(every)
        size_of = {file.path: size for file, size in zip(every, sizes, strict=True)}
        facts = {
            "folder": given.folder,
            "prompts": given.prompts,
            "images_per_prompt": given.images_per_prompt,
            "device": str(device),
            "batch_size": given.batch_size,
        }

        def score(metric: FolderMetric) -> Results:
            places = (size_of, outputs[metric], facts, folder)
            return score_files(metric, files[metric], *places, given.batch_size, device, shard)

        results = {metric: score(metric) for metric in metrics}
        if len(metrics) > 1:  # what other processes had still to do then may be done by now
            results |= {metric: score(metric) for metric, result in results.items() if result.missing}
        if any(result.missing for result in results.values()):
            left = (f"{result.missing} images for {m.name}" for m, result in results.items() if result.missing)
            say(f"shard {shard} is done; the others have not scored yet: {', '.join(left)}")
        else:
            _show(results, outputs, every, folder, facts)


def _show(
    results: Mapping[FolderMetric, Results],
    outputs: Mapping[FolderMetric, Path],
    files: Sequence[ImageFile],
    folder: Path,
    facts: Mapping[str, Any],
) -> None:
    """Print one table: that of a single benchmark, or of all metrics, which are also written to one file."""
    (metric, output), *others = outputs.items()
    if not others and not isinstance(metric, RewardScores):
        table = geneval_table if isinstance(metric, GenevalVerdicts) else benchmark_table
        say(f"{table(results[metric].summary)}\n\nresults      {output} and {summary_file(output).name}")
    else:
        directory = output.parent
        summary, rows = write_scores(results, files, folder, directory, facts)
        prompts = len({row["prompt"] for row in rows} - {None})
        title = count_of(len(rows), "image") + (f" of {count_of(prompts, 'prompt')}" if prompts else "")
        say(f"{scores_table(summary, title)}\n\nscores       {directory / 'scores.json'} and scores.csv")
        say(f"results      {directory}: {', '.join(path.name for path in outputs.values())}")
    for each, result in results.items():
        if left_out := [line for line in result.lines.values() if None in each.values(line).values()]:
            named = some_of([f"{line['filename']} ({shortened(line['prompt'] or '')})" for line in left_out])
            hint = "choose another --dtype, like bfloat16"
            say(
                f"warning: {len(left_out)} of {each.name}'s scores are not finite (null) and left out of its mean: "
                f"{named}; {hint}."
            )
    unreadable = {name: why for result in results.values() for name, why in result.unreadable.items()}
    if unreadable:
        several = len(unreadable) > 1
        left_out = f"{count_of(len(unreadable), 'image')} cannot be read and {'are' if several else 'is'}"
        say(f"warning: {left_out} not in the scores:")
        say("\n".join([*list(unreadable.values())[:8], *(["..."] if len(unreadable) > 8 else [])]))


def _metrics(words: Sequence[str], given: Namespace) -> list[FolderMetric]:
    """What the words mean, each once."""
    benchmarks = {word: section for word in words if (section := _benchmark_section(word)) is not None}
    rewards = [word for word in words if word != GENEVAL and word not in benchmarks]
    found: list[FolderMetric] = []
    for name, section in reward_sections(rewards, given.dtype, (GENEVAL, *BENCHMARKS)).items():
        found.append(RewardScores(name, import_class(section["class_path"], Reward), *_resolved(Reward, section)))
    if GENEVAL in words:
        detector = _resolved(Detector, _detector_section(given.detector))
        found.append(GenevalVerdicts(VerdictOptions(**vars(given.geneval)), *detector))
    elif given.detector is not None:
        raise UserError(f"--detector is for {GENEVAL}, which is not among the metrics.")
    for section in benchmarks.values():
        kind = import_class(section["class_path"], BenchmarkMetric)
        name = next((name for name, path in BENCHMARKS.items() if path == class_path(kind)), kind.__name__)
        found.append(BenchmarkScores(name, kind, *_resolved(BenchmarkMetric, section)))
    names = [metric.name for metric in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"Two metrics are called {twice[0]!r}; score them one after the other, with another --output.")
    return found


def _resolved(kind: type, section: Mapping[str, Any]) -> tuple[dict[str, Any], Callable[[], Any]]:
    """Class path and all arguments of what a section describes, and what makes it."""
    parser = Parser()
    parser.add_argument("--metric", type=kind)
    config = parser.parse_object({"metric": section})
    return config.clone().as_dict()["metric"], lambda: parser.instantiate(config).metric


def _benchmark_section(word: str) -> dict[str, Any] | None:
    """Class path and arguments of a benchmark metric; None if the word means something else."""
    if word in BENCHMARKS:
        return {"class_path": BENCHMARKS[word]}
    if Path(word).suffix in (".yaml", ".yml"):
        content = read_config(word)
        if METRIC_SECTION not in content and not _is_benchmark(content.get("class_path")):
            return None
        section = read_section(word, METRIC_SECTION)
        import_class(str(section.get("class_path")), BenchmarkMetric)
        return section
    return {"class_path": word} if word not in SHORT_NAMES and "." in word and _is_benchmark(word) else None


def _is_benchmark(path: Any) -> bool:
    try:
        return isinstance(path, str) and import_class(path, BenchmarkMetric) is not None
    except ValueError:
        return False


def _detector_section(word: str | None) -> dict[str, Any]:
    """Class path and arguments of what `--detector` means."""
    if word is None:
        return {"class_path": class_path(GenEvalDetector)}
    if Path(word).suffix not in (".yaml", ".yml"):
        return {"class_path": word}
    section = read_section(word, DETECTOR_SECTION)
    if "class_path" not in section:
        raise ValueError(f"{word} describes no detector: it has neither `{DETECTOR_SECTION}` nor a `class_path`.")
    return section


def _outputs(output: str | None, folder: Path, metrics: Sequence[FolderMetric]) -> dict[FolderMetric, Path]:
    """The results file of each metric."""
    place = folder if output is None else Path(output)
    if place.suffix == ".jsonl" and len(metrics) == 1 and not _has_rewards(metrics) and not place.is_dir():
        return {metrics[0]: place}
    if output is not None and (place.is_file() or place.suffix in (".json", ".jsonl", ".csv")):
        raise UserError(f"--output {output} has to be a folder or, for a single benchmark, a file that ends in .jsonl.")
    if place.is_dir() and not os.access(place, os.W_OK):
        raise UserError(f"Nothing can be written to {place}; choose another folder with --output.")
    return {metric: place / f"{metric.name}.jsonl" for metric in metrics}


def _files_by_metric(
    source: Path, metrics: Sequence[FolderMetric], given: Namespace
) -> dict[FolderMetric, list[ImageFile]]:
    """The images that each metric can score; says how many are left out."""
    files = _read_files(source, metrics, given)
    require_prompts(files, [metric for metric in metrics if isinstance(metric, RewardScores)])
    chosen = {metric: metric.choose(files) for metric in metrics}
    for metric in metrics:
        if not isinstance(metric, RewardScores) and not given.allow_uneven:
            require_even(chosen[metric])
        if left_out := len(files) - len(chosen[metric]):
            say(f"note: {left_out} images are left out of {metric.name}: their prompts' rows lack what it needs")
    return chosen


def _read_files(source: Path, metrics: Sequence[FolderMetric], given: Namespace) -> list[ImageFile]:
    kinds = {type(metric) for metric in metrics}
    if given.images_per_prompt is not None and kinds != {RewardScores}:
        raise UserError(
            "--images_per_prompt is for rewards alone; benchmarks find each image's prompt in the prompts' rows."
        )
    if GenevalVerdicts in kinds:
        if given.prompts:
            raise UserError(f"{GENEVAL} takes the prompts' rows from the folder; leave --prompts out.")
        return read_geneval_folder(source)
    if BenchmarkScores not in kinds and source.suffix != ".json":
        if len(given.prompts or ()) > 1:
            raise UserError("--prompts is one file for rewards alone, with the prompts of all images.")
        return read_image_folder(source, *(given.prompts or [None]), given.images_per_prompt)
    files = read_benchmark_images(source)
    if not given.prompts:
        return files
    found, n_missing = with_rows(files, given.prompts)
    if n_missing:
        say(f"warning: {n_missing} of the prompts have no image")
    if len(found) < len(files):
        say(f"note: {len(files) - len(found)} images are of other prompts and left out")
    return found


def _has_rewards(metrics: Sequence[FolderMetric]) -> bool:
    return any(isinstance(metric, RewardScores) for metric in metrics)


def own_shard(text: str | None) -> WorkShard:
    """This process's share of the images: the one given, else by its rank under `torchrun`.

    Raises:
        ValueError: if the text is no share.
        UserError: if srun started several processes without telling each its share.
    """
    if text is not None:
        return WorkShard.parse(text)
    if launcher() == "srun":
        raise UserError(
            "The tasks of srun would all do the same work; say the share of each: "
            "srun bash -c 'hn ... --shard $SLURM_PROCID/$SLURM_NTASKS'"
        )
    return WorkShard.of_environment()


def own_device(device: torch.device) -> torch.device:
    """The device; under `torchrun`, if no particular GPU was asked for, the GPU of this process's local rank.

    Raises:
        ValueError: if there are more processes than GPUs.
    """
    rank = os.environ.get("LOCAL_RANK")
    return find_device(f"cuda:{rank}") if device == torch.device("cuda") and rank is not None else device
