"""Slices of patients: what is drawn from them, and that nobody is on both sides of a fold."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from samihs_runtime.bundle.entries import WindowRule
from samihs_runtime.encoding.slice_frame import SliceFrame
from samihs_runtime.errors import DataError, UsageError
from samihs_training.data.augmentation import Augmentation
from samihs_training.data.cases.finding import find_cases
from samihs_training.data.folds import Folds, make_folds
from samihs_training.data.patients import PatientSlices, split_cases
from samihs_training.data.sources import Drawing, Drawn
from samihs_training.data.volume_cache import CachedCase, open_volumes
from samihs_training.prompts import prompt_rule

from .test_data_sets import SHAPE, bcihm, head, save

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MONAI 1.6's own calls
PLAIN = Drawing("bleeds", prompts=4, rule=prompt_rule("random"), negatives=0.0, vary=False)


def opened(root: Path) -> list[CachedCase]:
    return open_volumes(root.parent / "cache", find_cases(root))


@pytest.fixture
def cases(tmp_path: Path) -> list[CachedCase]:
    return opened(bcihm(tmp_path / "data", 4))


def two_lesions(root: Path) -> list[CachedCase]:
    hu, mask = head(0)
    mask[:] = 0
    mask[5:9, 3:7, 1], mask[13:17, 9:13, 1] = 1, 1
    save(hu, root / "data" / "ct_scans" / "1.nii")
    save(mask, root / "data" / "masks" / "1.nii")
    return opened(root / "data")


def drawn(source: PatientSlices, index: int, drawing: Drawing = PLAIN, seed: int = 0) -> Drawn:
    return source.draw(index, drawing, np.random.default_rng(seed))


def test_every_slice_with_hemorrhage_in_the_runtimes_frame(cases: list[CachedCase]) -> None:
    source = PatientSlices(cases[:2], size=32)
    assert source.slices == [("049", 1), ("049", 2), ("050", 1), ("050", 2)]
    frame = SliceFrame(SHAPE[1], SHAPE[0], 32, aspect=0.4 / 0.5)  # of pixels 0.4 mm high
    for index, (name, place) in enumerate(source.slices):
        (case,) = [each for each in cases if each.name == name]
        hu = case.hu[place].astype(np.float32)
        one = drawn(source, index)
        np.testing.assert_allclose(one.hu, frame.slice_to_model(hu), atol=0.01)
        assert one.window == (-20.0, 100.0)
        for prompt, mask in one.asked:
            ((x, y),) = prompt.points
            assert mask[int(y), int(x)]
            corners = np.argwhere(case.mask[place])[[0, -1]][:, ::-1].astype(np.float32)
            wanted = np.array([corners[0] - 0.5, corners[1] + 0.5], np.float32)  # the outline
            found = np.argwhere(mask)[:, ::-1]
            box = np.array([found.min(0) - 0.5, found.max(0) + 0.5])
            # Bilinear: the outline moves by at most half a stored pixel, here 0.8 of the frame's.
            assert np.abs(box - frame.points_to_model(wanted)).max() <= 1.3


def test_a_slice_of_the_right_size_goes_through_unchanged(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    hu = rng.integers(0, 80, (16, 16, 2)).astype(np.int16)
    hu[:2], hu[2:4] = -1000, 900
    mask = np.zeros(hu.shape, np.uint8)
    mask[6:9, 5:7, 1] = 1
    square = np.diag([-0.5, -0.5, 5.0, 1.0])
    save(hu, tmp_path / "data" / "ct_scans" / "1.nii", square)
    save(mask, tmp_path / "data" / "masks" / "1.nii", square)
    one = drawn(PatientSlices(opened(tmp_path / "data"), size=16), 0)
    np.testing.assert_array_equal(one.hu, hu[:, :, 1].T)
    np.testing.assert_array_equal(one.asked[0][1], mask[:, :, 1].T > 0)


def test_a_prompt_asks_for_its_lesion_or_for_all_of_the_slice(tmp_path: Path) -> None:
    cases = two_lesions(tmp_path)
    source = PatientSlices(cases, size=20)
    asked = [mask for seed in range(4) for _, mask in drawn(source, 0, PLAIN, seed).asked]
    assert {ndimage.label(mask, np.ones((3, 3)))[1] for mask in asked} == {1}
    assert len({mask.tobytes() for mask in asked}) == 2  # either of them
    whole = drawn(PatientSlices(cases, size=20, wanted="slice"), 0).asked[0][1]
    np.testing.assert_array_equal(whole, asked[0] | next(m for m in asked if (m != asked[0]).any()))


@pytest.mark.parametrize("name", ["hand", "points", "box"])
def test_a_negative_is_pointed_at_off_the_hemorrhage(cases: list[CachedCase], name: str) -> None:
    drawing = Drawing("bleeds", prompts=10, rule=prompt_rule(name), negatives=1.0, vary=False)
    source = PatientSlices(cases, size=20)
    truth = drawn(source, 0).asked[0][1]
    for prompt, mask in drawn(source, 0, drawing).asked:
        assert not mask.any()
        assert (prompt.box is not None) == (name == "box")
        for x, y in prompt.points:
            away = np.abs(np.argwhere(truth) - (y, x)).sum(1).min()
            assert away > 3  # pixels, along rows and columns


def test_the_window_is_the_stored_slices_own_percentiles(cases: list[CachedCase]) -> None:
    """Before the frame pads it with air, as the runtime takes them."""
    rule = WindowRule("percentiles", 5.0, 95.0)
    drawing = Drawing("bleeds", prompts=1, window=rule, vary=False)
    source = PatientSlices(cases, size=32)
    for index, (name, place) in enumerate(source.slices):
        (case,) = [each for each in cases if each.name == name]
        wanted = np.percentile(case.hu[place], (5.0, 95.0))
        assert drawn(source, index, drawing).window == pytest.approx(tuple(wanted))


def equal(one: Drawn, other: Drawn) -> bool:
    def arrays(each: Drawn) -> list[NDArray[np.generic]]:
        return [each.hu, np.asarray(each.window), *(mask for _, mask in each.asked)]

    prompts = [prompt for prompt, _ in one.asked] == [prompt for prompt, _ in other.asked]
    return prompts and all(map(np.array_equal, arrays(one), arrays(other)))


def test_augmentation_varies_training_only_and_repeats_with_its_seed(
    cases: list[CachedCase],
) -> None:
    plain = PatientSlices(cases, size=32)
    varied = PatientSlices(cases, size=32, augmentation=Augmentation(noise=1.0))
    training = Drawing("bleeds", prompts=2)
    assert equal(drawn(varied, 3), drawn(plain, 3))
    one = drawn(varied, 3, training, seed=1)
    assert not np.array_equal(one.hu, drawn(plain, 3, training, seed=1).hu)
    assert one.window != (-20.0, 100.0)  # its ends are off by a few HU
    sent: PatientSlices = pickle.loads(pickle.dumps(varied))  # as a worker gets it
    assert len(pickle.dumps(plain)) < 2000  # no voxel, though it has read them
    assert equal(one, drawn(sent, 3, training, seed=1))


@pytest.mark.parametrize("spacing", [(0.5, 1.0), (1.0, 0.5)])  # mm between rows, columns
def test_a_rotation_does_not_shear_oblong_pixels(
    tmp_path: Path, spacing: tuple[float, float]
) -> None:
    """A disk in the patient is one in every drawn slice."""
    down, across = spacing
    shape = (int(64 / across), int(64 / down), 1)
    column, row, _ = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    disk = np.hypot((column + 0.5) * across - 32, (row + 0.5) * down - 32) < 12
    hu = np.where(disk, 70, 30).astype(np.int16)
    hu[0], hu[1] = -1000, 900
    affine = np.diag([-across, -down, 5.0, 1.0])
    save(hu, tmp_path / "data" / "ct_scans" / "1.nii", affine)
    save(disk.astype(np.uint8), tmp_path / "data" / "masks" / "1.nii", affine)
    turning = Augmentation(affine=1.0, degrees=45.0, scale=0.0)
    source = PatientSlices(opened(tmp_path / "data"), size=64, augmentation=turning)
    for seed in range(4):
        mask = drawn(source, 0, Drawing("bleeds", prompts=1, negatives=0.0), seed).asked[0][1]
        small, large = np.sqrt(np.linalg.eigvalsh(np.cov(np.argwhere(mask).T)))
        assert large / small < 1.05


def test_nobody_is_on_both_sides(cases: list[CachedCase]) -> None:
    folds = make_folds({case.name: case.volume_ml for case in cases}, count=3, seed=4)
    tested: list[str] = []
    for fold in range(3):
        split = split_cases(cases, folds, fold, "folds")
        kept_back = {case.name for case in split.held_out}
        trained = {name for name, _ in PatientSlices(split.train, size=16).slices}
        assert kept_back == set(folds.cases(fold))
        assert not kept_back & trained
        assert kept_back | trained == {"049", "050", "051", "052"}
        tested += kept_back
    assert sorted(tested) == ["049", "050", "051", "052"]


def test_one_scan_under_two_names_is_found(tmp_path: Path) -> None:
    root = bcihm(tmp_path / "data", 2)
    for folder in ("ct_scans", "masks"):
        copied = (root / folder / "049.nii").read_bytes()
        (root / folder / "copy.nii").write_bytes(copied)
    cases = opened(root)
    with pytest.raises(DataError, match="049 and copy are one scan, and fold 1 holds out one"):
        split_cases(cases, Folds(2, 0, {"049": 0, "050": 0, "copy": 1}), 1, "f.json")
    together = split_cases(cases, Folds(2, 0, {"049": 0, "050": 1, "copy": 0}), 1, "f.json")
    assert [case.name for case in together.held_out] == ["050"]


@pytest.mark.parametrize(
    ("fold_of", "fold", "kind", "match"),
    [
        ({"049": 0, "050": 1, "051": 0}, 1, DataError, "f.json has no fold for 052 .1 in all"),
        (dict.fromkeys(["049", "050", "051", "052", "99"], 0), 0, DataError, "lacks: 99"),
        ({"049": 0, "050": 0, "051": 0, "052": 0}, 1, DataError, "fold 1 holds no patient"),
        ({"049": 0, "050": 1, "051": 0, "052": 1}, 2, UsageError, "f.json has folds 0 to 1"),
        (dict.fromkeys(["049", "050", "051", "052"], 0), 0, DataError, "no case outside fold 0"),
    ],
)
def test_folds_that_do_not_fit_are_refused(
    cases: list[CachedCase], fold_of: dict[str, int], fold: int, kind: type[Exception], match: str
) -> None:
    with pytest.raises(kind, match=match):
        split_cases(cases, Folds(2, 0, fold_of), fold, "f.json")
