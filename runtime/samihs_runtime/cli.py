"""``samihs-infer``: a CT study and a click in; mask, volume and DICOM objects out."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from samihs_runtime.errors import UsageError, one_line_errors

if TYPE_CHECKING:
    from samihs_runtime.prompts import Request

FORMATS = ("seg", "overlay", "json", "nifti")


@dataclass(frozen=True)
class Options:
    """The command's options, as given."""

    study: Path
    request: Request
    series: str | None
    bundle: Path | None
    backend: str
    out: Path
    formats: tuple[str, ...]
    propagation: bool
    overwrite: bool
    identify: bool


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("study", type=click.Path(path_type=Path))
@click.option(
    "--point",
    "points",
    multiple=True,
    metavar="X,Y[,Z]",
    help="Click on the bleed: column, row and slice, zero-based. Repeatable.",
)
@click.option(
    "--negative",
    "negatives",
    multiple=True,
    metavar="X,Y[,Z]",
    help="Click on what is not the bleed. Repeatable.",
)
@click.option("--box", metavar="X0,Y0,X1,Y1", help="Box around the bleed.")
@click.option(
    "--click-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Take the click from the truth.json of a phantom study.",
)
@click.option(
    "--slice",
    "slice_index",
    type=int,
    metavar="N",
    help="Slice of the click, zero-based from the foot end. [sought where not given]",
)
@click.option("--series", metavar="UID|NUMBER", help="Which series. [chosen, and said why]")
@click.option("--list", "list_only", is_flag=True, help="List the study's series and stop.")
@click.option("--bundle", type=click.Path(path_type=Path), help="Model bundle. [the shipped one]")
@click.option(
    "--backend",
    type=click.Choice(["auto", "tensorrt", "cuda", "cpu"]),
    default="auto",
    show_default=True,
    help="A named backend that cannot run is an error.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for results. [samihs-result]")
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice(FORMATS),
    help="What to write. [seg, overlay and json]",
)
@click.option("--no-propagation", is_flag=True, help="Segment the clicked slice only.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier result in --out.")
@click.option("--identify", is_flag=True, help="Put the patient's identity into the JSON report.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.version_option(package_name="samihs")
@one_line_errors
def main(
    study: Path,
    points: tuple[str, ...],
    negatives: tuple[str, ...],
    box: str | None,
    click_file: Path | None,
    slice_index: int | None,
    series: str | None,
    list_only: bool,
    bundle: Path | None,
    backend: str,
    out: Path | None,
    formats: tuple[str, ...],
    no_propagation: bool,
    overwrite: bool,
    identify: bool,
    debug: bool,
) -> None:
    """Segment the hemorrhage that was clicked on in STUDY: a DICOM file, folder, zip or DICOMDIR.

    The shipped model saw synthetic CT only. Not for clinical use.
    """
    if debug:
        os.environ["SAMIHS_DEBUG"] = "1"
    if list_only:
        from samihs_runtime.console import print_series

        print_series(study)
        return
    from samihs_runtime.prompts import parse_request

    if click_file is not None:
        points = (*points, _click_of(click_file))
    options = Options(
        study=study,
        request=parse_request(points, negatives, box, slice_index),
        series=series,
        bundle=bundle,
        backend=backend,
        out=out or Path("samihs-result"),
        formats=formats or FORMATS[:3],
        propagation=not no_propagation,
        overwrite=overwrite,
        identify=identify,
    )
    from samihs_runtime.infer import infer

    infer(options)


def _click_of(path: Path) -> str:
    """The suggested click of a phantom's ``truth.json``, as ``--point`` takes it."""
    import json

    try:
        return str(json.loads(path.read_text())["suggested_click"]["point"])
    except OSError as error:
        raise UsageError(f"cannot read {path.name}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path.name} suggests no click: expected a phantom's truth.json"
        ) from error


if __name__ == "__main__":
    main()
