"""``samihs-export``: bundle, add-adapters, engines, verify. The last two import no torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from samihs_runtime.bundle import Bundle
from samihs_runtime.bundle.entries import method_name
from samihs_runtime.errors import UsageError, one_line_errors

if TYPE_CHECKING:
    from samihs_export.engines.build_options import BuildOptions
    from samihs_export.metadata import BundleMetadata
    from samihs_export.pipeline import ExportOptions
    from samihs_training.checkpoints.checkpoint import LoadedAdapters

CHECKPOINT = Path("models/vit_mini/adapters.safetensors")
BASE = Path("models/vit_mini/base.safetensors")
SHIPPED_NAME = "vit_mini_phantom"
SCORE_THRESHOLD = (
    "Refuse masks that score below this, 0 to 1. Default: the evaluation's threshold, or a guess "
    "where there is none."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.version_option(package_name="samihs")
def main(debug: bool) -> None:
    """Turn a trained checkpoint into a bundle that the runtime serves."""
    if debug:
        os.environ["SAMIHS_DEBUG"] = "1"


@main.command()
@click.option("--checkpoint", type=Path, default=CHECKPOINT, show_default=True)
@click.option("--base", type=Path, default=BASE, show_default=True)
@click.option(
    "--evaluation",
    type=Path,
    help="summary.json of samihs-evaluate on this checkpoint: its accuracy and score threshold go "
    "into the manifest. One of a data set (--data) gives accuracy only; the threshold is then that "
    "of evaluation.json beside the checkpoint. Default: that file, if there is one.",
)
@click.option("--score-threshold", type=float, help=SCORE_THRESHOLD)
@click.option(
    "--out",
    type=Path,
    help="Bundle folder. Default, for the shipped weights only: the shipped bundle, made anew.",
)
@click.option("--name", help="Name of the bundle. Default: the name of its folder.")
@click.option(
    "--precision",
    default="fp16",
    show_default=True,
    help="TensorRT graphs, such as fp16,bf16,int8,fp8; int8 also adds one for ONNX Runtime.",
)
@click.option(
    "--target",
    help="Also build engines of each precision for these targets, such as sm80,sm89,sm120.",
)
@click.option(
    "--engines", type=Path, help="Folder for the engines of --target. Default: <bundle>/engines."
)
@click.option(
    "--mirror",
    is_flag=True,
    help="Answer with the mean over each slice and its mirror image: better masks, twice the work.",
)
@click.option("--untrained", is_flag=True, help="Random weights: compare numbers, not masks.")
@click.option(
    "--overwrite", is_flag=True, help="Replace a bundle that holds other sites' adapters."
)
@one_line_errors
def bundle(
    checkpoint: Path,
    base: Path,
    evaluation: Path | None,
    score_threshold: float | None,
    out: Path | None,
    name: str | None,
    precision: str,
    target: str | None,
    engines: Path | None,
    mirror: bool,
    untrained: bool,
    overwrite: bool,
) -> None:
    """Merge, export, prove and write a bundle. Nothing is written unless every gate holds."""
    from samihs_export.engines.tensorrt import choose_flavour, parse_targets
    from samihs_export.pipeline import check_destination, export_bundle

    options = _options(precision, mirror, untrained)
    if engines and not target:
        raise UsageError("--engines has no effect without --target: name targets, such as sm89")
    targets = parse_targets(target) if target else ()
    if targets:
        choose_flavour()  # before the minutes of work, not after
    place = (out or _shipped_place(checkpoint, base)).resolve()
    if gone := check_destination(place, overwrite=overwrite):
        click.echo(f"warning: {place} is replaced; its engines go: {', '.join(gone)}", err=True)
    console = Console()
    with _steps(console) as step:
        loaded, about = _loaded(
            checkpoint, base, evaluation, score_threshold, name or place.name, mirror, step
        )
        options = replace(options, slice_size=loaded.slice_size)
        written = export_bundle(
            loaded.model, about, place, options, progress=step, overwrite=overwrite
        )
    size = sum(entry.bytes for entry in written.manifest.files.values())
    console.print(f"{written.root}  {size / 1e6:.1f} MB, {len(written.manifest.files)} files")
    console.print(_parity_table(written.manifest.parity["results"]))
    if targets:
        out = engines or written.engines
        _build(written, targets, out, options.precisions, "auto", None, console)


@main.command()
@click.argument("path", metavar="BUNDLE", type=Path)
@click.option("--target", help="Such as sm80,sm89,sm120. Default: this machine's GPU.")
@click.option("--out", type=Path, help="Folder. Default: BUNDLE/engines, where the runtime looks.")
@click.option("--precision", help="Which of the bundle's TensorRT graphs. Default: the first.")
@click.option("--flavour", default="auto", help="auto, tensorrt_rtx or tensorrt.")
@click.option("--timing-cache", type=Path, help="File of measured kernel times, read and updated.")
@click.option("--version-compatible", is_flag=True, help="Later TensorRT versions load it as well.")
@click.option("--hardware-compatible", help="ampere_plus or same_compute_capability.")
@click.option("--refittable", is_flag=True, help="Other adapters can be swapped in. Needs a GPU.")
@one_line_errors
def engines(
    path: Path,
    target: str | None,
    out: Path | None,
    precision: str | None,
    flavour: str,
    timing_cache: Path | None,
    version_compatible: bool,
    hardware_compatible: str | None,
    refittable: bool,
) -> None:
    """Build TensorRT engines from a bundle. Needs no torch, and for named targets no GPU."""
    from samihs_export.engines.build_options import BuildOptions
    from samihs_export.engines.tensorrt import parse_targets

    options = BuildOptions(
        timing_cache=timing_cache,
        version_compatible=version_compatible,
        hardware_compatible=hardware_compatible,
        refittable=refittable,
    )
    opened = Bundle.open(path)
    targets = parse_targets(target)
    _build(opened, targets, out or opened.engines, (precision,), flavour, options, Console())


@main.command()
@click.argument("path", metavar="BUNDLE", type=Path)
@click.option(
    "--backend",
    type=click.Choice(["tensorrt", "cuda", "cpu"]),
    help="Also check this backend of the runtime: with tensorrt the engines of every precision, "
    "refitted for each adapter set.",
)
@one_line_errors
def verify(path: Path, backend: str | None) -> None:
    """Check every hash, and every graph against torch's answers at export. Needs no torch."""
    from samihs_export.verify import verify_bundle

    verified = verify_bundle(path, backend)
    opened, console = verified.bundle, Console()
    console.print(f"{opened.root}  {opened.manifest.name} {opened.manifest.version}: intact")
    if opened.manifest.adapter_sets:
        console.print(_sets_table(opened))
    console.print(_parity_table([result.summary() for result in verified.results]))
    for each in verified.not_run:
        click.echo(f"not run: {each}")


@main.command("add-adapters")
@click.argument("path", metavar="BUNDLE", type=Path)
@click.option("--checkpoint", type=Path, required=True, help="The site's adapter checkpoint.")
@click.option("--base", type=Path, required=True, help="The base shared by site and bundle.")
@click.option("--name", required=True, help="The set's name, for samihs-infer --adapters.")
@click.option("--evaluation", type=Path, help="summary.json of samihs-evaluate, as for bundle.")
@click.option("--score-threshold", type=float, help=SCORE_THRESHOLD)
@click.option("--replace", is_flag=True, help="Replace a set of the same name.")
@one_line_errors
def add_adapters(
    path: Path,
    checkpoint: Path,
    base: Path,
    name: str,
    evaluation: Path | None,
    score_threshold: float | None,
    replace: bool,
) -> None:
    """Add another site's adapters to a bundle. Nothing is changed unless every gate holds."""
    opened = Bundle.open(path)
    console = Console()
    with _steps(console) as step:
        from samihs_export import adapter_sets

        mirrored = opened.manifest.mirrored
        loaded, about = _loaded(checkpoint, base, evaluation, score_threshold, name, mirrored, step)
        written = adapter_sets.add_adapters(opened, loaded, about, replace=replace, progress=step)
    made = written.with_adapters(name).adapters
    if made is not None:
        size = sum(written.manifest.files[each].bytes for each in made.files)
        console.print(f"{written.root}  adapters {made}: {size / 1e6:.1f} MB")
        console.print(_parity_table(made.parity["results"]))


def _shipped_place(checkpoint: Path, base: Path) -> Path:
    """Where the shipped bundle lies, which only the shipped weights may replace unasked."""
    for given, ours in ((checkpoint, CHECKPOINT), (base, BASE)):
        if given.resolve() != ours.resolve():
            raise UsageError(
                f"--out is missing: {given} is not of the shipped bundle and does not replace it "
                "unasked; name a folder for its bundle"
            )
    return Path(str(resources.files("samihs_runtime"))) / "bundles" / SHIPPED_NAME


def _loaded(
    checkpoint: Path,
    base: Path,
    evaluation: Path | None,
    score_threshold: float | None,
    name: str,
    mirrored: bool,
    step: Callable[[str], None],
) -> tuple[LoadedAdapters, BundleMetadata]:
    """The checkpoint, and what the bundle or the set will record about it."""
    from samihs_export.figures import figures_of
    from samihs_export.metadata import metadata_of
    from samihs_training.checkpoints.checkpoint import load_adapters

    step("loading the checkpoint")
    loaded = load_adapters(checkpoint, base)
    figures = figures_of(
        evaluation, checkpoint, base, loaded, mirrored=mirrored, score_threshold=score_threshold
    )
    return loaded, metadata_of(loaded, name, figures)


def _options(precision: str, mirror: bool, untrained: bool) -> ExportOptions:
    from samihs_export.float_types import read_precisions
    from samihs_export.pipeline import ExportOptions

    chosen = read_precisions(precision)
    return ExportOptions(precisions=chosen, mirrored=mirror, trained=not untrained)


def _build(
    opened: Bundle,
    targets: tuple[str | None, ...],
    out: Path,
    precisions: Sequence[str | None],
    flavour: str,
    options: BuildOptions | None,
    console: Console,
) -> None:
    """Build and list the engines of these precisions; None is the bundle's first."""
    from samihs_export.engines.tensorrt import BuiltEngine, build_engines

    columns = ("engine", "MB", "activations, MB", "seconds", "attention layers")
    table = Table(*columns, title="TensorRT engines")

    def note(built: BuiltEngine) -> None:
        asked = built.activation_bytes
        activations = "unknown" if asked is None else f"{asked / 1e6:.0f}"
        figures = (f"{built.bytes / 1e6:.1f}", activations, f"{built.build_seconds:.1f}")
        table.add_row(built.path.name, *figures, str(built.attention_layers))

    with console.status("building engines"):
        for precision in precisions:
            build_engines(
                opened,
                out,
                targets,
                precision=precision,
                flavour=flavour,
                options=options,
                progress=note,
            )
    console.print(table)
    console.print(f"in {out}")


class _steps:
    """A progress line: the current step and the time it has taken so far."""

    def __init__(self, console: Console) -> None:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console)
        self._task: Any = None

    def __enter__(self) -> Callable[[str], None]:
        self._progress.start()
        return self._next

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def _next(self, step: str) -> None:
        if self._task is not None:
            self._progress.update(self._task, total=1, completed=1)
        self._task = self._progress.add_task(step, total=None)


def _sets_table(opened: Bundle) -> Table:
    """What ``--adapters`` takes, after the bundle's own adapters."""
    table = Table("adapters", "method", "trained on", "score threshold", title="Adapters")
    for name in (None, *(each.name for each in opened.manifest.adapter_sets)):
        about = opened.with_adapters(name).manifest
        trained_on, threshold = about.training_data, f"{about.score_threshold:.3g}"
        table.add_row(name or "the bundle's own", method_name(about.method), trained_on, threshold)
    return table


def _parity_table(results: list[dict[str, Any]]) -> Table:
    table = Table("compared", "slices", "IoU mean", "IoU least", "score", "logits", title="Parity")
    for each in results:
        table.add_row(
            each["name"],
            str(each["cases"]),
            f"{each['mask_iou_mean']:.5f}",
            f"{each['mask_iou_min']:.5f}",
            f"{each['score_difference']:.1e}",
            f"{each['logits_relative']:.1e}",
        )
    return table


if __name__ == "__main__":
    main()
