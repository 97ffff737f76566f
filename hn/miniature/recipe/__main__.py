"""`python -m hn.miniature.recipe`, which `make miniature` runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from hn.miniature.recipe.run import STAGES, Recipe


def main(arguments: list[str] | None = None) -> None:
    """Run the recipe as the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m hn.miniature.recipe",
        description="Train the miniature's checkpoints. Finished stages are skipped, interrupted ones go on. With "
        "--force all stages, or those of --only, start from nothing: what --work holds of them is deleted first.",
    )
    parser.add_argument("--only", nargs="+", choices=STAGES, metavar="STAGE", help=f"some of: {', '.join(STAGES)}")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/miniature_recipe"), help="checkpoints and training pairs"
    )
    parser.add_argument("--out", type=Path, default=Path("data/miniature"), help="the finished checkpoints")
    parser.add_argument("--prompts", type=Path, default=Path("data/prompts/miniature"), help="the prompt files")
    parser.add_argument("--scale", type=float, default=1.0, help="shorten (or lengthen) every stage in proportion")
    parser.add_argument("--force", action="store_true", help="start the stages from nothing, without their checkpoints")
    options = parser.parse_args(arguments)
    try:
        recipe = Recipe(options.work, options.out, options.prompts, options.scale)
        recipe.run(options.only or STAGES, options.force)
    except (FileNotFoundError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
