"""Pictures: where things are drawn, true proportions, captions; looks are judged by eye."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from samihs_runtime.measurement import measure
from samihs_runtime.segmentation import Prompt
from samihs_runtime.writers import contact_sheet as sheets
from samihs_runtime.writers.contact_sheet import contact_sheet
from samihs_runtime.writers.drawing import ct_panel, draw_contour, draw_prompt, view_of
from samihs_runtime.writers.lettering import AMBER, VERMILION, wrapped
from samihs_runtime.writers.overlay import caption, overlay_image
from tests.runtime.series_factory import make_lesion, make_report, make_series, not_found


def near(image: Image.Image, colour: tuple[int, int, int], within: int = 40) -> Any:
    """Pixels [rows, columns] of about that colour."""
    pixels = np.asarray(image).astype(int)
    return np.abs(pixels - colour).max(axis=-1) <= within


def test_the_window_is_the_brains() -> None:
    series = make_series(shape=(20, 20))
    series.hu[0] = np.linspace(-40, 120, 400).reshape(20, 20).astype(np.int16)
    view = view_of(series, [0], [], [], 20)
    grey = np.asarray(ct_panel(series.hu[0], view))[..., 0]
    hu = series.hu[0].astype(float)
    np.testing.assert_allclose(grey, np.clip(hu / 80, 0, 1) * 255, atol=1)


def test_the_contour_lies_on_the_masks_edge() -> None:
    """Its bright pixels lie within half a stored pixel, and half the line, of the mask's edge."""
    series = make_series()
    lesion = make_lesion(series, (2,), centre=(30, 26), size=(20, 12))
    mask = lesion.slices[0].mask
    view = view_of(series, [2], [mask], [], 640)
    drawn = near(draw_contour(ct_panel(series.hu[2], view), mask, view), VERMILION)
    ys, xs = np.nonzero(drawn)
    left, top = view.place(20 - 0.5, 20 - 0.5)
    right, bottom = view.place(32 - 0.5, 40 - 0.5)
    allowed = view.scale[0] / 2 + 2.5
    off = np.minimum.reduce([abs(xs - left), abs(xs - right), abs(ys - top), abs(ys - bottom)])
    assert off.max() <= allowed
    assert xs.min() == pytest.approx(left, abs=3)
    assert xs.max() == pytest.approx(right, abs=3)
    assert ys.min() == pytest.approx(top, abs=3)
    assert ys.max() == pytest.approx(bottom, abs=3)


def test_drawing_near_the_mask_equals_drawing_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The contour's shortcut, distances around the mask only, changes no pixel."""
    from samihs_runtime.writers import drawing

    series = make_series()
    mask = make_lesion(series, (2,)).slices[0].mask
    view = view_of(series, [2], [mask], [], 300)
    panel = ct_panel(series.hu[2], view)
    quick = np.asarray(draw_contour(panel, mask, view))
    width, height = view.size
    monkeypatch.setattr(drawing, "_neighbourhood", lambda *_, **__: ((0, height), (0, width)))
    np.testing.assert_array_equal(quick, np.asarray(draw_contour(panel, mask, view)))


@pytest.mark.parametrize("matrix", [512, 1024])
def test_a_pixel_alone_is_outlined_wherever_it_lies(matrix: int) -> None:
    """On the smallest tiles, five in a row: every phase of stored against drawn pixels, and the
    image's corners."""
    series = make_series(positions=(0.0,), shape=(matrix, matrix))
    tile = (sheets.PAGE_WIDTH - 2 * sheets.PAD - 4 * sheets.GAP) // 5
    view = view_of(series, [0], [], [], tile)
    panel = ct_panel(series.hu[0], view)
    middle = matrix // 2
    places = [(y, x) for y in range(middle, middle + 8) for x in range(middle, middle + 8)]
    corners = [(y, x) for y in (view.top, view.bottom - 1) for x in (view.left, view.right - 1)]
    for y, x in places + corners:
        mask = np.zeros(series.shape, dtype=bool)
        mask[y, x] = True
        changed = np.asarray(draw_contour(panel, mask, view)) != np.asarray(panel)
        ys, xs, _ = np.nonzero(changed)
        at_x, at_y = view.place(x, y)
        assert np.hypot(ys + 0.5 - at_y, xs + 0.5 - at_x).min() < 2


def test_a_sheet_of_ten_specks_is_drawn() -> None:
    series = make_series(positions=tuple(5.0 * z for z in range(10)), shape=(512, 512))
    lesion = make_lesion(series, range(10), centre=(258, 258), size=(1, 1))
    page = contact_sheet(series, lesion, measure(series, lesion), make_report())
    assert near(page, VERMILION).sum() > 200


def test_an_empty_mask_draws_nothing() -> None:
    series = make_series()
    view = view_of(series, [2], [], [], 200)
    panel = ct_panel(series.hu[2], view)
    assert draw_contour(panel, np.zeros(series.shape, dtype=bool), view) is panel


def test_the_click_is_ringed_and_its_spot_left_free() -> None:
    series = make_series()
    view = view_of(series, [2], [], [], 640)
    plain = ct_panel(series.hu[2], view)
    marked = draw_prompt(plain, Prompt(((26.0, 30.0),), (1,)), view)
    changed = np.abs(np.asarray(marked).astype(int) - np.asarray(plain)).max(axis=-1) > 40
    ys, xs = np.nonzero(changed)
    x, y = view.place(26.0, 30.0)
    assert (xs.min() + xs.max()) / 2 == pytest.approx(x, abs=1.5)
    assert (ys.min() + ys.max()) / 2 == pytest.approx(y, abs=1.5)
    assert not changed[round(y) - 3 : round(y) + 4, round(x) - 3 : round(x) + 4].any()


@pytest.mark.parametrize("side", [0.0, 0.1, 0.5, 4.0])
def test_a_box_is_drawn_however_small(side: float) -> None:
    series = make_series(shape=(512, 512))
    view = view_of(series, [2], [], [], 640)
    plain = ct_panel(series.hu[2], view)
    marked = draw_prompt(plain, Prompt(box=(217.0, 245.0, 217.0 + side, 245.0 + side)), view)
    changed = np.abs(np.asarray(marked).astype(int) - np.asarray(plain)).max(axis=-1) > 40
    ys, xs = np.nonzero(changed)
    x, y = view.place(217.0 + side / 2, 245.0 + side / 2)
    assert (xs.min() + xs.max()) / 2 == pytest.approx(x, abs=1.5)
    assert (ys.min() + ys.max()) / 2 == pytest.approx(y, abs=1.5)


def test_proportions_are_millimetres() -> None:
    series = make_series(shape=(40, 60), spacing=(1.0, 0.5))
    view = view_of(series, [0], [np.ones((40, 60), dtype=bool)], [], 400)
    assert view.size == (300, 400)


def test_a_click_in_the_air_stays_in_sight() -> None:
    series = make_series()
    series.hu[:] = -1000
    series.hu[:, 30:34, 30:34] = 40
    view = view_of(series, [2], [], [(2.0, 60.0)], 400)
    x, y = view.place(2.0, 60.0)
    assert 0 <= x < view.size[0]
    assert 0 <= y < view.size[1]


def test_captions_say_what_was_found_and_what_it_is_not_for() -> None:
    series = make_series()
    lesion = make_lesion(series)
    measured = measure(series, lesion)
    texts = [text for text, _, _ in caption(series, lesion, measured, make_report())]
    assert texts[0].startswith("0.2 mL")
    assert "score 0.93" in texts[0]
    assert "slice 2 (image 3) of 0 to 4" in texts[2]
    assert texts[-1] == "Trained on synthetic CT only; not for clinical use"
    nothing = caption(series, not_found(), measure(series, not_found()), make_report())
    assert nothing[0][0].startswith("No hemorrhage found at this click")


def test_the_pages_show_contour_and_warning() -> None:
    series = make_series()
    lesion = make_lesion(series)
    measured = measure(series, lesion)
    for page in (
        overlay_image(series, lesion, measured, make_report()),
        contact_sheet(series, lesion, measured, make_report()),
    ):
        assert near(page, VERMILION).sum() > 200
        assert near(page, AMBER, 30)[-80:].sum() > 100
    nothing = overlay_image(series, not_found(), measure(series, not_found()), make_report())
    assert near(nothing, VERMILION).sum() == 0


def test_the_sheet_has_the_whole_statement_however_long() -> None:
    """Its end says that the pictures are not for clinical use; Secondary Capture shows it, too."""
    series = make_series()
    lesion = make_lesion(series)
    measured = measure(series, lesion)
    trained = "Trained on heads of five hospitals and on synthetic CT, " * 9
    short, long = (
        np.asarray(contact_sheet(series, lesion, measured, make_report(training_data=text)))
        for text in ("Trained on synthetic CT", trained)
    )
    ruler = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    statement = make_report(training_data=trained).statement
    lines = wrapped(ruler, statement, sheets.FOOTER_SIZE, sheets.PAGE_WIDTH - 2 * sheets.PAD)
    assert len(lines) > 2
    assert amber_lines(short) == 1
    assert amber_lines(long) == len(lines)
    assert len(long) - len(short) == (len(lines) - 1) * sheets.FOOTER_LINE
    above = len(short) - sheets.PAD - sheets.FOOTER_LINE
    np.testing.assert_array_equal(long[:above], short[:above])


def amber_lines(page: NDArray[np.uint8]) -> int:
    """Lines of text in the statement's colour: stretches of rows that have some of it."""
    rows = near(Image.fromarray(page), AMBER, 30).any(axis=1)
    return int((rows[1:] & ~rows[:-1]).sum())


def test_the_sheet_thins_out_many_slices_but_keeps_the_clicked_and_the_ends() -> None:
    kept = sheets._thinned(list(range(10, 210)), 33)
    assert len(kept) <= sheets.MOST_TILES
    assert {10, 33, 209} <= set(kept)
    assert sheets._thinned([3, 4, 5], 4) == [3, 4, 5]


def test_text_is_wrapped_to_the_width() -> None:
    draw = ImageDraw.Draw(Image.new("RGB", (10, 10)))
    text = "slices of a head with a hemorrhage " * 6
    lines = wrapped(draw, text.strip(), 18, 240)
    assert len(lines) > 3
    assert " ".join(lines) == text.strip()
    from samihs_runtime.writers.lettering import font

    assert all(draw.textlength(line, font=font(18)) <= 240 for line in lines)


def test_the_sheet_has_the_directions_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(sheets, "draw_directions", lambda panel, plane, **_: drawn.append(plane))
    series = make_series()
    lesion = make_lesion(series)
    contact_sheet(series, lesion, measure(series, lesion), make_report())
    assert drawn == [series.planes[1]]
