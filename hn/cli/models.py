"""Options that name a generator and what was trained on it, for commands without an experiment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hn.cli.parsing import Parser, add_trust_option
from hn.utils.config import generator_section

if TYPE_CHECKING:
    from hn.evaluation.generate import Trained


def add_model_options(parser: Parser, hypernet: str) -> None:
    """Add `--generator`, `--hypernet` (of which `hypernet` is the help), and what goes with them."""
    add = parser.add_argument
    add("--generator", help="Hub id or folder of a diffusers pipeline, or a YAML file with an experiment's "
        "model.generator, or with such a section alone.")  # fmt: skip
    add("--hypernet", help=hypernet)
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps, or auto for the GPU if there is one.")
    add("--dtype", help="Data type of the generator's weights: float32, bfloat16, float16 or float64.")
    add("--variant", help='Variant of the generator\'s weight files, like "fp16".')
    add("--revision", help="Branch, tag or commit of the generator on the Hub.")
    add("--height", type=int, help="Height of the images in pixels; the generator's own if not given.")
    add("--width", type=int, help="Width of the images in pixels, likewise.")
    add("--hypernet_revision", help="Branch, tag or commit of the hypernetwork on the Hub.")
    add("--last_layer_rule", help="Rule of the last layer, for a published adapter that does not record it: "
        "lora_branch_only.")  # fmt: skip
    add("--alpha", type=float, help="Alpha of a published adapter that does not record it.")
    add("--merge", type=bool, default=False, help="Merge the LoRA into a copy of the backbone: faster, needs memory "
        "for a second backbone.")  # fmt: skip
    add_trust_option(parser)


def find_models(options: Any) -> tuple[dict[str, Any], Trained | None]:
    """Class path and arguments of the generator, and what was trained on it, if it is named.

    Raises:
        FileNotFoundError: if a file is missing, or weights to download without network.
        ValueError: if the file of the generator is wrong.
    """
    from hn.evaluation.generate import Trained  # here, for a help without PyTorch
    from hn.utils.hub import repositories_in, require_repositories

    own = ("variant", "revision", "dtype", "height", "width")
    section = generator_section(options.generator, {n: options[n] for n in own if options[n] is not None})
    if section["init_args"].get("cache"):
        section["init_args"]["cache"] = False  # an experiment's prompts are in it, not these
    hypernet = {"pretrained": options.hypernet, "revision": options.hypernet_revision}
    require_repositories(repositories_in([section, hypernet]))
    if options.hypernet is None:
        return section, None
    stated = (
        options.hypernet_revision,
        options.last_layer_rule,
        options.alpha,
        options.merge,
        options.trust_remote_code,
    )
    return section, Trained(options.hypernet, *stated)
