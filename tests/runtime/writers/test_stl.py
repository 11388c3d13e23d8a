"""The surface: closed, facing outward, and enclosing exactly the volume that is reported."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samihs_runtime.measurement import measure
from samihs_runtime.writers.stl import TRIANGLE, surface, write_stl
from tests.runtime.series_factory import make_lesion, make_series, not_found

AWKWARD: dict[str, dict[str, Any]] = {
    "even": {},
    "tilted": {"tilt_deg": 18.5},
    "uneven, tilted": {"positions": (0, 4, 8, 9.08, 16.08), "tilt_deg": -24.0, "thickness": 4.0},
    "anisotropic": {"spacing": (0.4, 0.7)},
}


@pytest.mark.parametrize("changes", AWKWARD.values(), ids=AWKWARD.keys())
@pytest.mark.parametrize("indices", [(1, 2, 3), (0, 1), (4,), (1, 3)])
def test_it_encloses_the_volume_that_is_reported(
    changes: dict[str, Any], indices: tuple[int, ...]
) -> None:
    series = make_series(**changes)
    lesion = make_lesion(series, indices)
    corners = surface(series, lesion)
    signed = np.linalg.det(corners).sum() / 6  # positive where triangles face outward
    assert signed / 1000 == pytest.approx(measure(series, lesion).volume_ml, rel=1e-9)


@pytest.mark.parametrize("changes", AWKWARD.values(), ids=AWKWARD.keys())
def test_it_is_closed(changes: dict[str, Any]) -> None:
    """Each edge is walked once in each direction."""
    series = make_series(**changes)
    corners = np.round(surface(series, make_lesion(series)), 6)
    edges: Counter[tuple[bytes, bytes]] = Counter()
    for triangle in corners:
        keys = [(corner + 0.0).tobytes() for corner in triangle]
        edges.update(zip(keys, keys[1:] + keys[:1], strict=True))
    assert all(count == edges[end, start] for (start, end), count in edges.items())


def test_a_single_slice_stands_for_its_thickness() -> None:
    series = make_series((0.0,), thickness=10.0)
    corners = surface(series, make_lesion(series, (0,)))
    assert np.ptp(corners[..., 2]) == pytest.approx(10.0)


def test_the_file_is_binary_stl(tmp_path: Path) -> None:
    series = make_series()
    write_stl(series, make_lesion(series), tmp_path / "a.stl")
    data = (tmp_path / "a.stl").read_bytes()
    count = int.from_bytes(data[80:84], "little")
    assert not data.startswith(b"solid")
    assert len(data) == 84 + 50 * count
    records = np.frombuffer(data[84:], TRIANGLE)
    np.testing.assert_allclose(np.linalg.norm(records["normal"], axis=1), 1, atol=1e-6)


def test_nothing_found_is_a_file_without_a_triangle(tmp_path: Path) -> None:
    write_stl(make_series(), not_found(), tmp_path / "a.stl")
    assert (tmp_path / "a.stl").read_bytes()[80:] == bytes(4)
