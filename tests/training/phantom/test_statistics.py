"""The tables of docs/phantoms.md: measured as described, written between their markers only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from click.testing import CliRunner

from samihs_training.data.phantom import BleedType, Tissue
from samihs_training.data.phantom.bleed import VOLUMES
from samihs_training.data.phantom.statistics import (
    BEGIN,
    END,
    drawn_volumes,
    main,
    measure,
    noise_texture,
)


def test_measured_hu_are_ordered_as_tissues_are() -> None:
    hu = measure(range(10)).hu
    medians = [
        np.median(hu[tissue])
        for tissue in (Tissue.FAT, Tissue.VENTRICLE, Tissue.WHITE, Tissue.GREY, Tissue.MUSCLE)
    ]
    assert medians == sorted(medians)


def test_softer_kernels_have_coarser_noise() -> None:
    soft, standard, sharp = (noise_texture(kernel) for kernel in ("soft", "standard", "sharp"))
    assert soft[0] > standard[0] > sharp[0]
    assert soft[2] < sharp[2]


def test_drawn_volumes_stay_in_their_ranges_and_favour_small_ones() -> None:
    for kind, volumes in drawn_volumes(80).items():
        assert volumes.size > 3, kind
        assert volumes.max() <= VOLUMES[kind].high * 1.01
        assert np.median(volumes) < volumes.mean(), kind
    assert BleedType.NONE not in drawn_volumes(1)


def test_only_what_lies_between_the_markers_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    result = CliRunner().invoke(main, [str(page), "--slices", "2", "--patients", "3"])
    assert result.exit_code == 0, result.output
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\nOver 2 slices")
    assert text.endswith(f"\n{END}\nafter\n")
    assert "old" not in text


def test_a_page_without_markers_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("no markers\n")
    result = CliRunner().invoke(main, [str(page), "--slices", "1", "--patients", "1"])
    assert result.exit_code == 2
    assert page.read_text() == "no markers\n"
