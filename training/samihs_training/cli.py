"""The ``samihs-train`` command."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import Progress

from samihs_runtime.errors import UsageError, one_line_errors
from samihs_training.compute.allocation import keep_freed_memory
from samihs_training.data.cases.case import LAYOUTS
from samihs_training.data.cases.labels import parsed
from samihs_training.data.cli import check_data, check_folds, make_folds_command
from samihs_training.runs.progress import PROGRESS_COLUMNS, FitBars

if TYPE_CHECKING:
    from samihs_training.config import DataConfig, Recipe


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def main(debug: bool) -> None:
    """Train SAM with parameter-refactoring adapters under the boundary-sensitive loss."""
    if debug:
        os.environ["SAMIHS_DEBUG"] = "1"


for _command in (check_data, make_folds_command, check_folds):
    main.add_command(_command)


@main.command()
@click.option("--config", type=click.Path(path_type=Path),
              help="Recipe: a TOML file, or authors, vit_mini, quick. [vit_mini]")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the run.")
@click.option("--base", type=click.Path(path_type=Path),
              help="Base to adapt (ours, or Meta's .pth), instead of training one.")  # fmt: skip
@click.option("--adapters", type=click.Path(path_type=Path),
              help="Adapters of --base: run only [mask_threshold] and [score].")  # fmt: skip
@click.option("--start", type=click.Path(path_type=Path),
              help="Base from which [base] starts, instead of fresh weights.")  # fmt: skip
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    help="Random seed. With --start, give a new one; otherwise the same clicks are drawn again.",
)
@click.option(
    "--first-slice",
    type=click.IntRange(min=0),
    help="Number of the first phantom to train on, past those of earlier rounds. [0]",
)
@click.option("--data", type=click.Path(path_type=Path),
              help="Adapt to this data set (docs/data.md), instead of phantoms.")  # fmt: skip
@click.option("--layout", type=click.Choice(LAYOUTS), help="Layout of the data set. [recognised]")
@click.option("--labels", help="Those of its masks that are hemorrhage, if they have others.")
@click.option("--folds", type=click.Path(path_type=Path),
              help="File written by make-folds. [folds are made, see fold_count]")  # fmt: skip
@click.option("--fold", type=click.IntRange(min=0), help="Fold of held-out patients. [0]")
@click.option("--target", type=click.Choice(["lesion", "slice"]),
              help="What a prompt asks for: one lesion, or all in the slice. [lesion]")  # fmt: skip
@click.option("--augment/--no-augment", default=None, help="Augment training slices. [yes]")
@click.option("--quick", is_flag=True, help="Try out the pipeline in two minutes; a useless model.")
@click.option("--resume", is_flag=True, help="Continue the run in --out.")
@click.option("--overwrite", is_flag=True, help="Replace the run in --out, keeping its cache.")
@click.option("--workers", default=1, show_default=True, help="Processes that prepare batches.")
@one_line_errors
def fit(
    config: Path | None,
    out: Path,
    base: Path | None,
    adapters: Path | None,
    start: Path | None,
    seed: int | None,
    first_slice: int | None,
    quick: bool,
    resume: bool,
    overwrite: bool,
    workers: int,
    **data: Any,
) -> None:
    """Train a base (or take one) and adapt it; one folder holds the run. Works under torchrun."""
    from samihs_training import fit as fitting

    if resume and overwrite:
        raise UsageError("--resume continues a run, --overwrite replaces it: give one of them")
    recipe = _recipe(config, quick, base, start, data)
    if adapters is not None:
        recipe = replace(recipe, adapters=str(adapters), validate_every=0)
    if seed is not None:
        recipe = replace(recipe, seed=seed)
    if first_slice is not None:
        recipe = _from_slice(recipe, first_slice)
    keep_freed_memory()
    first = os.environ.get("RANK", "0") == "0"
    console = Console(quiet=not first)
    with Progress(*PROGRESS_COLUMNS, console=console, disable=not first) as progress:
        bars = FitBars(progress, recipe)
        made = fitting.fit(
            recipe, out, resume=resume, overwrite=overwrite, workers=workers,
            report=bars.trained, cache_progress=bars.cached,
            data_progress=bars.read,
        )  # fmt: skip
    console.print(f"base      {recipe.base_checkpoint or out / 'base.safetensors'}")
    console.print(f"adapters  {made}")
    console.print(f"log       {out / 'log.csv'}, curves.png, report.json, tensorboard/")
    console.print("next: samihs-export bundle --checkpoint ... --base ... --out BUNDLE")


def _recipe(
    config: Path | None, quick: bool, base: Path | None, start: Path | None, data: dict[str, Any]
) -> Recipe:
    """The recipe named on the command line, with its options for base and data applied.

    Raises:
        UsageError: an option would have no effect.
    """
    from samihs_training.config import read_recipe

    if config is not None and quick:
        raise UsageError("--quick is a recipe of its own: leave it out, or --config")
    recipe = read_recipe(config, quick=quick, base=base)
    if start is not None:
        if recipe.base is None:
            raise UsageError(
                f"--start {start}: {recipe.base_checkpoint} is adapted as it is, and no base is "
                "trained from these weights: give a recipe with [base], without --base"
            )
        recipe = replace(recipe, start=str(start))
    return replace(recipe, data=_data(recipe.data, data))


def _from_slice(recipe: Recipe, first_slice: int) -> Recipe:
    """The recipe with its phantoms from there on; raises a UsageError if it trains on none."""
    if recipe.base is None and recipe.data is not None:
        raise UsageError(
            f"--first-slice {first_slice}: no phantom is trained on, as the base is given and is "
            "adapted to a data set"
        )
    return replace(recipe, first_slice=first_slice)


def _data(config: DataConfig | None, options: dict[str, Any]) -> DataConfig | None:
    """The recipe's [data] with the command line's options applied."""
    from samihs_training.config import DataConfig

    given = {name: value for name, value in options.items() if value is not None}
    given |= {name: str(given[name]) for name in ("data", "folds") if name in given}
    if "labels" in given:
        given["labels"] = parsed(given["labels"])
    if "data" in given:
        given["root"] = given.pop("data")
    if config is not None:
        return replace(config, **given)
    if given and "root" not in given:
        names = ", ".join(f"--{name}" for name in given)
        raise UsageError(f"{names}: used only with a data set; name one with --data, or in [data]")
    return DataConfig(**given) if given else None


@main.command()
@click.argument("grid", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of all runs.")
@click.option("--resume", is_flag=True, help="Continue; finished runs are not trained again.")
@click.option("--workers", default=1, show_default=True, help="Processes that prepare batches.")
@one_line_errors
def compare(grid: Path, out: Path, resume: bool, workers: int) -> None:
    """Train every combination of GRID (a TOML file) on one base and write one table."""
    from samihs_training.evaluation import compare as comparing
    from samihs_training.recipe_grid import read_recipe_grid

    console = Console()
    chosen = read_recipe_grid(grid)
    keep_freed_memory()
    rows = comparing.compare(chosen, out, resume=resume, workers=workers, progress=console.print)
    console.print(comparing.as_markdown(rows, chosen), markup=False, soft_wrap=True)
    console.print(f"written to {out / 'comparison.csv'} and .md")


@main.command("import-authors")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write to.")
@click.option("--decoder-heads", default=8, show_default=True, type=click.IntRange(min=1),
              help="Attention heads of the mask decoder; the file does not tell.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace checkpoints that are in --out.")
@one_line_errors
def import_authors(file: Path, out: Path, decoder_heads: int, overwrite: bool) -> None:
    """Make base and adapter checkpoints from a .pth file of the SAMIHS authors' code."""
    from samihs_training.checkpoints import authors

    done = authors.import_authors(file, out, decoder_heads=decoder_heads, overwrite=overwrite)
    console = Console()
    console.print(f"model     {done.config.name}, pad order and window as the authors have them")
    console.print(f"base      {done.base}")
    console.print(f"adapters  {done.adapters}")


if __name__ == "__main__":
    main()
