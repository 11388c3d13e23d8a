"""``samihs-train``."""

from __future__ import annotations

import os
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from samihs_runtime.errors import one_line_errors
from samihs_training.config import Recipe, read_recipe


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def main(debug: bool) -> None:
    """Train SAM with parameter-refactoring adapters under the boundary-sensitive loss."""
    if debug:
        os.environ["SAMIHS_DEBUG"] = "1"


@main.command()
@click.option(
    "--config", type=click.Path(path_type=Path), help="Recipe (TOML). [shipped: vit_mini]"
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the run.")
@click.option(
    "--quick", is_flag=True, help="Prove the path in two minutes; the model is of no use."
)
@click.option("--resume", is_flag=True, help="Go on where the run in --out stopped.")
@click.option("--workers", default=1, show_default=True, help="Processes that prepare batches.")
@one_line_errors
def fit(config: Path | None, out: Path, quick: bool, resume: bool, workers: int) -> None:
    """Train base and adapters in two stages; one folder holds the run."""
    recipe = read_recipe(config, quick=quick)
    console = Console()
    adapters = _fit_with_progress(recipe, out, resume, workers, console)
    console.print(f"base      {out / 'base.safetensors'}")
    console.print(f"adapters  {adapters}")
    console.print(f"log       {out / 'log.csv'}")
    console.print("next: samihs-export bundle --checkpoint ... --base ... --out BUNDLE")


def _fit_with_progress(
    recipe: Recipe, out: Path, resume: bool, workers: int, console: Console
) -> Path:
    from samihs_training.fit import StepReport
    from samihs_training.fit import fit as run

    columns = (
        TextColumn("{task.description:<9}"), BarColumn(), TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console) as progress:
        bars = {"phantoms": progress.add_task("phantoms", total=recipe.slices, note="")}
        for name, stage in (("base", recipe.base), ("adapt", recipe.adapt)):
            bars[name] = progress.add_task(name, total=stage.minutes, note="", start=False)

        def report(step: StepReport) -> None:
            note = f"step {step.step}  loss {step.loss:.3f}  IoU {step.iou:.2f}"
            progress.start_task(bars[step.stage])
            progress.update(bars[step.stage], completed=step.minutes, note=note)

        def cached(done: int, total: int) -> None:
            progress.update(bars["phantoms"], completed=done, note=f"{done}/{total} slices")

        adapters = run(
            recipe, out, resume=resume, workers=workers, report=report, cache_progress=cached
        )
        progress.update(bars["phantoms"], completed=recipe.slices)
    return adapters


@main.command("import-authors")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write to.")
@click.option("--decoder-heads", default=8, show_default=True, type=click.IntRange(min=1),
              help="Heads of the mask decoder: no tensor's shape tells them.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace checkpoints that are in --out.")
@one_line_errors
def import_authors(file: Path, out: Path, decoder_heads: int, overwrite: bool) -> None:
    """Make base and adapter checkpoints of a .pth file of the SAMIHS authors' code."""
    from samihs_training import authors

    done = authors.import_authors(file, out, decoder_heads=decoder_heads, overwrite=overwrite)
    console = Console()
    console.print(f"model     {done.config.name}, pad order and window as the authors have them")
    console.print(f"base      {done.base}")
    console.print(f"adapters  {done.adapters}")


if __name__ == "__main__":
    main()
