"""``samihs-infer``: a CT study and a click in; mask, volume and DICOM objects out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from samihs_runtime.collector import patient_collector
from samihs_runtime.errors import UsageError, one_line_errors
from samihs_runtime.formats import CHANGED_BY, DEFAULT_FORMATS, NAMES
from samihs_runtime.options import Click, Options
from samihs_runtime.precisions import PRECISIONS
from samihs_runtime.termination import tidy_termination


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("study", type=click.Path(path_type=Path), required=False)
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
@click.option("--mm", is_flag=True, help="Points are X,Y,Z in mm: patient coordinates, LPS.")
@click.option(
    "--click-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Take the click from the truth.json of a phantom study.",
)
@click.option(
    "--clicks",
    "clicks_file",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="Many clicks in many studies: writes a folder for each, and clicks.csv. Can be resumed.",
)
@click.option(
    "--slice",
    "slice_index",
    type=int,
    metavar="N",
    help="Slice of the click, zero-based along the slice normal (docs/reading.md), not the number "
    "that a viewer shows. [searched for if omitted]",
)
@click.option("--series", metavar="UID|NUMBER", help="Which series. [chosen, and the reason shown]")
@click.option("--list", "list_only", is_flag=True, help="List the study's series and stop.")
@click.option("--bundle", type=click.Path(path_type=Path), help="Model bundle. [the shipped one]")
@click.option("--adapters", metavar="NAME", help="One of the bundle's adapter sets. [its own]")
@click.option(
    "--backend",
    type=click.Choice(["auto", "tensorrt", "cuda", "cpu"]),
    default="auto",
    show_default=True,
    help="A named backend that cannot run is an error.",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    help="Of graphs and engines, if the bundle has several. [fp32 on a CPU, else the fastest]",
)
@click.option(
    "--score-threshold",
    type=click.FloatRange(0, 1),
    help="Lowest score that counts as found, as samihs-calibrate measures it. [the bundle's own]",
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for results. [samihs-result]")
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice(list(NAMES)),
    help=f"What to write. [{', '.join(DEFAULT_FORMATS)}]",
)
@click.option("--fractional", is_flag=True, help="The SEG holds probabilities, not a mask.")
@click.option("--resample", is_flag=True, help="NIfTI: resample uneven slices to an even grid.")
@click.option("--no-propagation", is_flag=True, help="Segment the clicked slice only.")
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Keep embeddings in DIR: the next click on the same study need not encode it again. An "
    "image can be reconstructed from them.",
)
@click.option("--overwrite", is_flag=True, help="Replace an earlier result in --out.")
@click.option("--identify", is_flag=True, help="Put the patient's identity into the JSON report.")
@click.option("--deidentify", is_flag=True, help="Leave identity out of the DICOM objects, too.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.version_option(package_name="samihs")
@one_line_errors
@tidy_termination()
@patient_collector()
def main(
    study: Path | None,
    points: tuple[str, ...],
    negatives: tuple[str, ...],
    box: str | None,
    mm: bool,
    click_file: Path | None,
    clicks_file: Path | None,
    slice_index: int | None,
    series: str | None,
    list_only: bool,
    debug: bool,
    **how: Any,
) -> None:
    """Segment the hemorrhage that was clicked on in STUDY: a DICOM file, folder, zip or DICOMDIR.

    The shipped model saw synthetic CT only. Not for clinical use.
    """
    if debug:
        os.environ["SAMIHS_DEBUG"] = "1"
    if clicks_file is not None:
        alone = (*points, *negatives, box, click_file, slice_index, series)
        alone = (*alone, mm or None, list_only or None)
        _many_clicks(clicks_file, study, alone, _options(**how))
        return
    if study is None:
        raise UsageError("no STUDY: name a DICOM file, a folder, a zip or a DICOMDIR")
    if list_only:
        from samihs_runtime.console import print_series

        print_series(study)
        return
    from samihs_runtime.patient_points import parse_patient_request
    from samihs_runtime.prompts import parse_request

    if click_file is not None:
        if mm:
            raise UsageError("--click-file holds pixels, not mm: leave out --mm")
        points = (*points, _click_of(click_file))
    parse = parse_patient_request if mm else parse_request
    request = parse(points, negatives, box, slice_index)
    options = _options(**how)
    from samihs_runtime.infer import infer

    infer(options, Click(study, series, request))


def _options(
    *,
    bundle: Path | None,
    adapters: str | None,
    backend: str,
    precision: str | None,
    score_threshold: float | None,
    out: Path | None,
    formats: tuple[str, ...],
    fractional: bool,
    resample: bool,
    no_propagation: bool,
    store: Path | None,
    overwrite: bool,
    identify: bool,
    deidentify: bool,
) -> Options:
    from samihs_runtime.writers import WriteOptions

    if identify and deidentify:
        raise UsageError("--identify and --deidentify ask for opposites: give one of them")
    formats = formats or DEFAULT_FORMATS
    given = {
        "--fractional": fractional,
        "--resample": resample,
        "--identify": identify,
        "--deidentify": deidentify,
    }
    _refuse_idle([name for name, is_given in given.items() if is_given], formats)
    return Options(
        bundle=bundle,
        backend=backend,
        out=out or Path("samihs-result"),
        formats=formats,
        propagation=not no_propagation,
        write=WriteOptions(
            overwrite=overwrite,
            identify=identify,
            deidentify=deidentify,
            fractional=fractional,
            resample=resample,
        ),
        store=store,
        adapters=adapters,
        precision=precision,
        score_threshold=score_threshold,
    )


def _refuse_idle(given: list[str], formats: tuple[str, ...]) -> None:
    """Refuse options that change none of the formats."""
    for option in given:
        changed = CHANGED_BY[option]
        if not set(changed) & set(formats):
            raise UsageError(
                f"{option} changes only {' and '.join(changed)}, and what is written is "
                f"{', '.join(formats)}: leave it out, or name such a --format"
            )


def _many_clicks(
    clicks_file: Path, study: Path | None, alone: tuple[object, ...], options: Options
) -> None:
    if any(each is not None for each in alone):
        raise UsageError(
            "--clicks takes points, boxes, slices and series from its file: leave those options, "
            "and --list, out"
        )
    from samihs_runtime.batch.clicks import read_clicks
    from samihs_runtime.batch.run import run_clicks

    run_clicks(read_clicks(clicks_file, study), options)


def _click_of(path: Path) -> str:
    """The suggested click of a phantom's ``truth.json``, as ``--point`` takes it."""
    import json

    try:
        return str(json.loads(path.read_text())["suggested_click"]["point"])
    except OSError as error:
        raise UsageError(f"cannot read {path.name}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path.name} suggests no click: expected the truth.json of a phantom with a bleed"
        ) from error


if __name__ == "__main__":
    main()
