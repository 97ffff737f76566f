"""`hn export`: f as one file that needs no hn."""

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

if TYPE_CHECKING:
    from hn.hypernets.base import Hypernet
    from hn.hypernets.export import Exported

USAGE = "hn export --hypernet ID_OR_FOLDER --generator ID_OR_FOLDER --output f.pt2 [--OPTION VALUE ...]"
DESCRIPTION = """Write f, the perturbation of the noise at the first timestep, as a program of torch.export or an ONNX
model: a function of noise and conditioning, weights included. The file is compared with the hypernetwork."""


def export_parser() -> Parser:
    """Options of `hn export`."""
    parser = command_parser("export", USAGE, DESCRIPTION)
    add_model_options(
        parser, hypernet="Hub id or folder of a hypernetwork that hn saved, or of a published LoRA adapter."
    )
    add = parser.add_argument
    add("--output", help="File to write, which does not exist: .pt2, or .onnx.")
    add("--format", default="torch", help="torch, a program of torch.export; or onnx (pip install 'hn[onnx]').")
    add("--batch_size", type=int, help="Fixed batch size of the file; if not given, any from 1 on, or 1 where "
        "the backbone's code does not allow others.")  # fmt: skip
    return parser


def export(arguments: Sequence[str]) -> None:
    """`hn export`.

    Raises:
        UserError: if there is something to mend, before weights are loaded as far as it can be known.
    """
    parser = export_parser()
    with helpful_parsing(parser, arguments):
        options = parser.parse_args(with_flag_values(arguments, ("--merge",)))
        missing = [f"--{name}" for name in ("hypernet", "generator", "output") if options[name] is None]
        if missing:
            parser.error(f"Missing: {', '.join(missing)}. Usage: {USAGE}")
    with user_errors(), helpful_messages_only():
        _export(options)


def _export(options: Any) -> None:
    import torch  # here, for a help without PyTorch

    from hn.cli.instances import generator_on_meta, instantiate
    from hn.generators.base import Generator
    from hn.hypernets.export import MAX_BATCH, export_hypernet, require_exportable
    from hn.utils.device import find_device

    device, path = find_device(options.device), Path(options.output)
    section, trained = find_models(options)
    section["init_args"].pop("compile", None)  # who runs the program compiles it
    meta_generator = generator_on_meta(section)
    if meta_generator is not None:
        require_exportable(meta_generator, path, options.format, options.batch_size)
        with torch.device("meta"):
            require_hypernet(trained.load(meta_generator), options.hypernet)
    generator = instantiate("generator", Generator, section).to(device)
    hypernet = require_hypernet(trained.load(generator), options.hypernet).to(device)
    report(export_hypernet(hypernet, path, options.format, options.batch_size), MAX_BATCH)


def require_hypernet(model: object, pretrained: str) -> Hypernet:
    """Raises:
    ValueError: if what was loaded is no hypernetwork.
    """
    from hn.hypernets.base import Hypernet

    if not isinstance(model, Hypernet):
        raise ValueError(f"{pretrained} is a fine-tune; hn export writes the f of a hypernetwork.")
    return model


def report(exported: Exported, largest_batch: int) -> None:
    """Say what was written."""
    taken = f"of 1 to {largest_batch}" if exported.batch_size is None else f"of {exported.batch_size} alone"
    inputs = ", ".join(f"{name} {[*shape]}" for name, shape in exported.inputs.items())
    print(f"exported     {exported.path}")
    print(f"inputs       {inputs}, in batches {taken}")
    print(f"compared     f differs by at most {exported.difference:.3g}; it is at most {exported.largest:.3g}")
