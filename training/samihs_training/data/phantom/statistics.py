"""Descriptive statistics of phantoms beside published values; writes them into docs/phantoms.md.

python -m samihs_training.data.phantom.statistics docs/phantoms.md
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from scipy import ndimage

from samihs_runtime.errors import OutputError, one_line_errors

from .arrays import Array
from .bleed import VOLUMES
from .contact_sheet import write_contact_sheet
from .options import BleedType, PhantomOptions, Tissue
from .patient import Patient
from .scan import draw_scan
from .scanner import correlated_noise
from .study import PhantomSlice, generate_slice

BEGIN, END = "<!-- statistics: begin -->", "<!-- statistics: end -->"
ATLAS = "Neurosurgical Atlas, Hounsfield units scale"
TEXTBOOK = "typical textbook range"


@dataclass(frozen=True)
class Published:
    """A published range of HU of one tissue."""

    tissue: Tissue
    name: str
    values: str
    """HU, as the source prints it."""
    source: str


PUBLISHED = (
    Published(Tissue.VENTRICLE, "CSF (ventricles)", "5; 0 to 15", f"{ATLAS}; {TEXTBOOK}"),
    Published(Tissue.WHITE, "white matter", "20 to 35", ATLAS),
    Published(Tissue.GREY, "grey matter", "30 to 40", ATLAS),
    Published(Tissue.CEREBELLUM, "cerebellum", "30 to 40", "as grey matter"),
    Published(Tissue.EDEMA, "edema", "10 to 14, up to white matter", ATLAS),
    Published(Tissue.MUSCLE, "muscle", "45 to 70", TEXTBOOK),
    Published(Tissue.FAT, "fat", "-120 to -60", ATLAS),
)


@dataclass(frozen=True)
class Measured:
    """What was measured on a set of phantom slices."""

    slices: int
    hu: dict[Tissue, Array]
    """Pixel values inside each tissue (its edge left out), HU, float32 [count]."""
    acute_hu: Array
    """Medians of bleeds brighter than 48 HU, one per slice, HU."""
    old_hu: Array
    """Medians of subdural collections of 48 HU or less, one per slice, HU."""


def measure(seeds: Iterable[int], options: PhantomOptions | None = None) -> Measured:
    """HU of tissues and bleeds over one slice for each seed."""
    values: dict[Tissue, list[Array]] = {p.tissue: [] for p in PUBLISHED}
    acute, old = [], []
    count = 0
    for seed in seeds:
        count += 1
        sample = generate_slice(seed, options)
        for tissue, found in values.items():
            found.append(_inside(sample, sample.tissues == tissue))
        for kind in BleedType:
            pixels = _inside(sample, sample.bleeds == kind) if kind else np.zeros(0)
            if pixels.size > 30:
                median = float(np.median(pixels))
                if median > 48:
                    acute.append(median)
                elif kind is BleedType.SUBDURAL:
                    old.append(median)
    hu = {tissue: np.concatenate(found) for tissue, found in values.items()}
    return Measured(count, hu, np.array(acute), np.array(old))


def noise_texture(kernel: str, seed: int = 0) -> tuple[float, float, float]:
    """For a kernel's noise: correlation of pixels 1 and 2 apart, and the peak of its spectrum.

    The peak is in cycles per mm, on a 512 matrix of 0.45 mm pixels.
    """
    options = PhantomOptions(kernel=kernel, pixel_spacing_mm=0.45, noise_hu=4.0)
    scan = draw_scan(np.random.default_rng(seed), options)
    noise = correlated_noise(np.random.default_rng(seed), scan)
    power = float((noise**2).mean())
    near = [float((noise[:, d:] * noise[:, :-d]).mean()) / power for d in (1, 2)]
    spectrum = np.abs(np.fft.rfft(noise, axis=1)) ** 2
    smooth = ndimage.gaussian_filter1d(spectrum.mean(axis=0), 4)
    peak = float(np.fft.rfftfreq(noise.shape[1], scan.pixel_mm)[int(smooth.argmax())])
    return near[0], near[1], peak


def drawn_volumes(patients: int) -> dict[BleedType, Array]:
    """Volumes (mL) of the bleeds of many patients, none of them rendered."""
    found: dict[BleedType, list[float]] = {kind: [] for kind in VOLUMES}
    for seed in range(patients):
        for bleed in Patient(np.random.default_rng(seed), PhantomOptions()).bleeds:
            found[bleed.kind].append(bleed.volume_ml)
    return {kind: np.array(volumes) for kind, volumes in found.items()}


def report(slices: int, patients: int) -> str:
    """The tables of docs/phantoms.md, as Markdown."""
    measured = measure(range(slices))
    lines = [
        f"Over {slices} slices (seeds 0 to {slices - 1}), one random head and scanner each.",
        "",
    ]
    lines += ["| HU of | phantoms: 5 %, median, 95 % | published | source |", "|---|---|---|---|"]
    for published in PUBLISHED:
        text = _quantiles(measured.hu[published.tissue])
        lines.append(f"| {published.name} | {text} | {published.values} | {published.source} |")
    rows = (
        ("acute blood (medians)", measured.acute_hu, "75 to 80 clotted; 50 to 90", True),
        ("isodense and chronic subdural (medians)", measured.old_hu, "0 to 45", False),
    )
    for name, values, published_values, atlas in rows:
        source = f"{ATLAS}; {TEXTBOOK}" if atlas else TEXTBOOK
        lines.append(f"| {name} | {_quantiles(values)} | {published_values} | {source} |")
    contrast = np.median(measured.hu[Tissue.GREY]) - np.median(measured.hu[Tissue.WHITE])
    lines += ["", f"Grey minus white matter (medians, noise and blur included): {contrast:.1f} HU."]
    lines += ["", "| noise of the kernel | 1 pixel apart | 2 pixels apart | peak, cycles/mm |"]
    lines.append("|---|---|---|---|")
    for kernel in ("soft", "standard", "sharp"):
        one, two, peak = noise_texture(kernel)
        lines.append(f"| {kernel} | {one:.2f} | {two:.2f} | {peak:.2f} |")
    lines += ["", f"Bleeds of {patients} patients:", ""]
    lines += ["| type | count | mL: 5 %, median, 95 % |", "|---|---|---|"]
    for kind, volumes in drawn_volumes(patients).items():
        lines.append(f"| {kind.name.lower()} | {volumes.size} | {_quantiles(volumes, 1)} |")
    return "\n".join(lines)


def _inside(sample: PhantomSlice, mask: Array) -> Array:
    eroded = ndimage.binary_erosion(mask, iterations=2)
    return np.asarray(sample.hu[eroded], np.float32)


def _quantiles(values: Array, digits: int = 0) -> str:
    if values.size == 0:
        return "none"
    low, middle, high = np.percentile(values, [5, 50, 95])
    return f"{low:.{digits}f}, {middle:.{digits}f}, {high:.{digits}f}"


@click.command()
@click.argument("page", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--slices", default=200, show_default=True, help="Slices to measure.")
@click.option("--patients", default=600, show_default=True, help="Patients to draw.")
@click.option("--sheet", type=click.Path(path_type=Path), help="Also write the contact sheet here.")
@one_line_errors
def main(page: Path, slices: int, patients: int, sheet: Path | None) -> None:
    """Measure phantoms and put the tables between the markers of PAGE."""
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise OutputError(f"{page}: has no {BEGIN} and {END} to write between")
    page.write_text(f"{before}{BEGIN}\n{report(slices, patients)}\n{END}{after}", encoding="utf-8")
    if sheet is not None:
        write_contact_sheet(sheet)


if __name__ == "__main__":
    main()
