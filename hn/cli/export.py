"""`hn export`: f as one file that needs no hn, or a generator as ONNX models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hn.cli.models import add_model_options, find_models
from hn.cli.parsing import (
    Parser,
    command_parser,
    helpful_messages_only,
    helpful_parsing,
    user_errors,
    with_flag_values,
)
from hn.utils.lock import locked
from hn.utils.text import say

if TYPE_CHECKING:
    from hn.hypernets.base import Hypernet
    from hn.hypernets.export import Exported

USAGE = "hn export [--hypernet ID_OR_FOLDER] --generator ID_OR_FOLDER --output FILE_OR_FOLDER [--OPTION VALUE ...]"
DESCRIPTION = """With --hypernet: write f, the perturbation of the noise at the first timestep, as a program of
torch.export or an ONNX model: a function of noise and conditioning, weights included. The file is compared with the
hypernetwork.

Without it: write the generator as a folder of ONNX models, which hn.generators.onnx.OnnxGenerator runs. The images are
compared with the pipeline's."""


def export_parser() -> Parser:
    """Options of `hn export`."""
    parser = command_parser("export", USAGE, DESCRIPTION)
    add_model_options(
        parser,
        hypernet="Hub id or folder of a hypernetwork that hn saved, or of a published LoRA adapter; without it the "
        "generator is exported.",
    )
    add = parser.add_argument
    add("--output", help="File to write, which does not exist: .pt2, or .onnx; of a generator a folder, new or empty.")
    add("--format", help="Of f: torch, a program of torch.export, if not given; or onnx (pip install 'hn[onnx]'). A "
        "generator is written in onnx.")  # fmt: skip
    add("--batch_size", type=int, help="Fixed batch size of f's file; if not given, any from 1 on, or 1 where the "
        "backbone's code does not allow others.")  # fmt: skip
    return parser


def export(arguments: Sequence[str]) -> None:
    """`hn export`.

    Raises:
        UserError: if there is something to mend, before weights are loaded as far as it can be known.
    """
    parser = export_parser()
    with helpful_parsing(parser, arguments):
        options = parser.parse_args(with_flag_values(arguments, ("--merge",)))
        missing = [f"--{name}" for name in ("generator", "output") if options[name] is None]
        if missing:
            parser.error(f"Missing: {', '.join(missing)}. Usage: {USAGE}")
        of_hypernet = ("hypernet_revision", "last_layer_rule", "alpha", "merge", "trust_remote_code", "batch_size")
        if options.hypernet is None and any(options[name] for name in of_hypernet):
            parser.error(f"{', '.join(f'--{name}' for name in of_hypernet if options[name])} needs --hypernet.")
        if options.hypernet is None and options.format not in (None, "onnx"):
            parser.error(f"A generator is written in the format onnx, not {options.format}; f needs --hypernet.")
    with user_errors(), helpful_messages_only():
        if options.hypernet is None:
            _export_generator(options)
        else:
            _export(options)


def _export(options: Any) -> None:
    import torch  # here, for a help without PyTorch

    from hn.cli.instances import generator_on_meta, instantiate
    from hn.generators.base import Generator
    from hn.hypernets.export import export_hypernet, require_exportable
    from hn.utils.device import find_device

    device, path, format = find_device(options.device), Path(options.output), options.format or "torch"
    section, trained = find_models(options)
    section["init_args"].pop("compile", None)  # who runs the program compiles it
    meta_generator = generator_on_meta(section)
    if meta_generator is not None:
        with torch.device("meta"):
            hypernet = require_hypernet(trained.load(meta_generator), options.hypernet)
        require_exportable(hypernet, path, format, options.batch_size)
    with locked(path, is_folder=False):
        generator = instantiate("generator", Generator, section).to(device)
        hypernet = require_hypernet(trained.load(generator), options.hypernet).to(device)
        report(export_hypernet(hypernet, path, format, options.batch_size))


def _export_generator(options: Any) -> None:
    from hn.cli.instances import generator_on_meta, instantiate  # here, for a help without PyTorch
    from hn.generators.base import Generator
    from hn.generators.onnx_export import export_generator, require_exportable_generator

    path = Path(options.output)
    section, _ = find_models(options)
    for name in ("compile", "offload_text_encoders"):
        section["init_args"].pop(name, None)
    meta_generator = generator_on_meta(section)
    if meta_generator is None:
        raise ValueError(f"A DiffusersGenerator can be exported, not a {section['class_path']}.")
    require_exportable_generator(meta_generator, path)
    with locked(path, is_folder=False):
        exported = export_generator(instantiate("generator", Generator, section), path)
    say(f"exported     {exported.path}")
    say(f"inputs       noise and prompts, in batches of 1 to {exported.max_batch}")
    say(f"compared     images differ by at most {exported.difference:.3g}")


def require_hypernet(model: object, pretrained: str) -> Hypernet:
    """Raises:
    ValueError: if what was loaded is no hypernetwork.
    """
    from hn.hypernets.base import Hypernet

    if not isinstance(model, Hypernet):
        raise ValueError(f"{pretrained} is a fine-tune; hn export writes the f of a hypernetwork.")
    return model


def report(exported: Exported) -> None:
    """Say what was written."""
    from hn.utils.program import MAX_BATCH  # here, for a help without PyTorch

    taken = f"of 1 to {MAX_BATCH}" if exported.batch_size is None else f"of {exported.batch_size} alone"
    inputs = ", ".join(f"{name} {[*shape]}" for name, shape in exported.inputs.items())
    say(f"exported     {exported.path}")
    say(f"inputs       {inputs}, in batches {taken}")
    say(f"compared     f differs by at most {exported.difference:.3g}; it is at most {exported.largest:.3g}")
