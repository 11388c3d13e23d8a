"""samihs-evaluate on phantoms: unseen studies, results of known answers, one-line errors."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from rich.console import Console

from samihs_runtime.bundle import Bundle, sha256_of, shipped_bundle
from samihs_runtime.errors import OutputError
from samihs_training.data.cache import FIRST_SEEDS, SEEDS_PER_SPLIT
from samihs_training.data.cases import finding
from samihs_training.data.clicks import Mask
from samihs_training.data.phantom import BleedType, PhantomOptions, generate_study
from samihs_training.data.studies import StudySlice, StudySpec, slices_of, study_slices
from samihs_training.data.targets import BRAIN
from samihs_training.evaluation import chosen_cases, phantom_files, pipeline, score_trials
from samihs_training.evaluation.chosen_cases import ChosenCases
from samihs_training.evaluation.cli import main
from samihs_training.evaluation.phantom_files import write_results
from samihs_training.evaluation.phantom_results import ClickResult, Evaluation
from samihs_training.evaluation.phantoms import evaluate
from samihs_training.evaluation.predictors import Clicks, Predictor, bundle_predictor
from samihs_training.evaluation.score_trials import (
    BLEED_FREE_SEED,
    CALIBRATION_SEED,
    calibration_error,
    reliability,
)
from samihs_training.network.sam import build_sam
from tests.training.tiny import TINY

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:monai"),  # MONAI 1.6's own calls
]
SPEC = StudySpec(
    studies=2,
    slices_per_study=3,
    options=PhantomOptions(
        matrix=96,
        slices=6,
        slice_thickness_mm=8,
        bleeds=(BleedType.INTRAPARENCHYMAL, BleedType.SUBDURAL),
        volume_range_ml=(20, 40),
    ),
)


@pytest.fixture(scope="module")
def slices() -> list[StudySlice]:
    return list(study_slices(SPEC))


def knowing(slices: list[StudySlice], *, grown: int = 0) -> Predictor:
    """Answers with the truth (its columns shifted by ``grown``), score 0.9 on bleeds, else 0.1."""
    truth = {each.hu.tobytes(): each for each in slices}

    def answer(hu: NDArray[np.int16], clicks: Clicks) -> list[tuple[NDArray[np.bool_], float]]:
        targets = {target.click: target for target in truth[hu.tobytes()].clicks}
        asked = [targets[click] for click in clicks]
        return [(np.roll(t.mask, grown, axis=1), 0.9 if t.mask.any() else 0.1) for t in asked]

    return Predictor("the truth", answer, None)


def test_slices_are_unseen_and_clicked_once_per_lesion(slices: list[StudySlice]) -> None:
    first = FIRST_SEEDS["test"]
    assert {each.study for each in slices} == {first, first + 1}
    seeds = [CALIBRATION_SEED, BLEED_FREE_SEED]
    assert all(first + 10_000 < seed < first + SEEDS_PER_SPLIT - 10_000 for seed in seeds)
    assert any(len(each.clicks) > 1 for each in slices)
    for each in slices:
        *lesions, elsewhere = each.clicks
        assert not elsewhere.mask.any()
        for target in lesions:
            assert target.mask[int(target.click[1]), int(target.click[0])]


def test_slices_without_blood_show_brain() -> None:
    """A click among the jaw or above the vault is refused by any score."""
    spec = replace(SPEC, studies=1, slices_per_study=12, options=PhantomOptions(128, bleeds=()))
    study = generate_study(spec.first_seed, spec.options)
    brain = [np.isin(each, BRAIN).mean() for each in study.tissues]
    chosen = [each.index for each in slices_of(spec.first_seed, spec)]
    assert len(chosen) == 4
    assert min(brain) == 0
    assert all(brain[index] > 0.02 for index in chosen)
    assert max(chosen) - min(chosen) > len(brain) / 3


def test_the_truth_is_perfect(slices: list[StudySlice]) -> None:
    result = evaluate(knowing(slices), slices, score_threshold=0.5)
    total = result.by_type()["all"]
    assert (total["dice"].mean, total["dice"].low, total["hd95_mm"].mean) == (1.0, 1.0, 0.0)
    assert total["volume_error_ml"].mean == 0
    assert result.acceptance(0.5) == {"found_on_bleeds": 1.0, "accepted_elsewhere": 0.0}
    assert result.acceptance(0.05)["accepted_elsewhere"] == 1.0
    assert result.wrong_rejects(0.5) == {"clicks": len(result.on_bleeds), "share": 0.0}
    below, above = result.reliability()
    assert [below["mean_score"], above["mean_score"]] == pytest.approx([0.1, 0.9])
    assert [below["mean_iou"], above["mean_iou"]] == [0.0, 1.0]


def test_a_bleed_is_rejected_where_it_is_widest() -> None:
    """A low score on its last speck is a wrong reject of that click, and none of the bleed."""

    def clicked(lesion_ml: float, area_mm2: float, score: float, study: int = 7) -> ClickResult:
        distances = (0.8, 0.7, 1.0, 0.0)
        return ClickResult(
            study, 0, "subdural", 1.0, 2.0, area_mm2, lesion_ml, *distances, score, served_dice=0.8
        )

    clicks = (
        clicked(5.0, 300.0, 0.6), clicked(5.0, 12.0, 0.1),
        clicked(2.0, 40.0, 0.9), clicked(2.0, 80.0, 0.2),
        clicked(5.0, 60.0, 0.1, study=8), clicked(0.4, 20.0, 0.0),
    )  # fmt: skip
    result = Evaluation("a model", 2, clicks, (), score_threshold=0.5)
    assert result.wrong_rejects(0.5) == {"clicks": 5, "share": pytest.approx(3 / 5)}
    assert result.rejected_bleeds(0.5) == {"bleeds": 3, "share": pytest.approx(2 / 3)}
    rows = {row["score_threshold"]: row for row in result.by_threshold()}
    assert rows[0.0]["wrong_rejects_from_1_ml"] == rows[0.1]["rejected_bleeds_from_1_ml"] == 0
    assert rows[0.5]["wrong_rejects_from_1_ml"] == pytest.approx(3 / 5)
    assert rows[0.65]["wrong_rejects_from_1_ml"] == pytest.approx(4 / 5)
    assert rows[0.65]["rejected_bleeds_from_1_ml"] == 1


def test_a_shifted_answer_is_worse_by_the_shift(slices: list[StudySlice]) -> None:
    result = evaluate(knowing(slices, grown=2), slices, score_threshold=0.5)
    total = result.by_type()["all"]
    assert 0 < total["dice"].mean < 1
    spacing = max(each.spacing_mm for each in slices)
    assert 0 < total["hd95_mm"].mean <= 2 * spacing + 1e-6
    assert set(result.by_type()) <= {"intraparenchymal", "subdural", "all"}


def test_a_slice_is_judged_by_all_its_blood(slices: list[StudySlice]) -> None:
    """Lesions of both types, the answers united; a speck that nobody clicks on is missed."""
    study_slice = max(slices, key=lambda each: len(each.clicks))
    speck = np.zeros(study_slice.hu.shape, bool)
    speck[2, 3:6] = True
    assert not (study_slice.bleeds > 0)[speck].any()
    bleeds = np.where(speck, BleedType.SUBDURAL, study_slice.bleeds).astype(np.uint8)
    lesions = [each for each in study_slice.clicks if each.mask.any()]
    assert {each.kind for each in lesions} == {BleedType.INTRAPARENCHYMAL, BleedType.SUBDURAL}
    result = evaluate(knowing(slices), [replace(study_slice, bleeds=bleeds)], score_threshold=0.5)
    rows = {each.kind: each for each in result.slices}
    assert set(rows) == {"intraparenchymal", "subdural", "all"}
    for name, row in rows.items():
        of_kind = [each for each in lesions if name in ("all", each.kind.name.lower())]
        found = sum(int(each.mask.sum()) for each in of_kind)
        blood = bleeds > 0 if name == "all" else bleeds == BleedType[name.upper()]
        assert row.lesions == len(of_kind)
        assert row.dice == pytest.approx(2 * found / (found + blood.sum()))
        assert row.area_mm2 == pytest.approx(blood.sum() * study_slice.spacing_mm**2)
    assert rows["intraparenchymal"].dice == 1.0
    assert rows["all"].dice < 1.0
    assert result.by_slice()["all"]["dice"].mean == rows["all"].dice


def test_what_is_served_lacks_what_the_score_refuses(slices: list[StudySlice]) -> None:
    """The truth is drawn everywhere, and refused on every subdural."""
    truth = knowing(slices)
    subdural = {
        (each.hu.tobytes(), target.click)
        for each in slices
        for target in each.clicks
        if target.kind is BleedType.SUBDURAL
    }

    def answer(hu: NDArray[np.int16], clicks: Clicks) -> list[tuple[NDArray[np.bool_], float]]:
        return [
            (mask, 0.3 if (hu.tobytes(), click) in subdural else score)
            for click, (mask, score) in zip(clicks, truth.answer(hu, clicks), strict=True)
        ]

    result = evaluate(Predictor("shy", answer, None), slices, score_threshold=0.5)
    by_type, by_slice = result.by_type(), result.by_slice()
    assert by_type["all"]["dice"].mean == 1.0
    assert by_type["subdural"]["served_dice"].mean == 0.0
    assert by_type["intraparenchymal"]["served_dice"].mean == 1.0
    assert by_slice["intraparenchymal"]["served_dice"].mean == pytest.approx(1.0)
    for row in result.slices:
        if row.kind == "all":
            (judged,) = (s for s in slices if (s.study, s.index) == (row.study, row.slice))
            kept = (judged.bleeds == BleedType.INTRAPARENCHYMAL).sum()
            assert row.served_dice == pytest.approx(2 * kept / (kept + (judged.bleeds > 0).sum()))
    assert 0 < by_slice["all"]["served_dice"].mean < 1


def test_results_are_written_whole(slices: list[StudySlice], tmp_path: Path) -> None:
    result = evaluate(knowing(slices), slices, score_threshold=0.5)
    write_results(result, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "clicks.csv",
        "slices.csv",
        "summary.json",
        "reliability.png",
    }
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["by_type"]["all"]["dice"]["mean"] == 1.0
    assert "synthetic" in summary["data"]
    rows = (tmp_path / "out" / "clicks.csv").read_text().splitlines()
    assert len(rows) == 1 + len(result.clicks)
    assert summary["by_slice"]["all"]["dice"]["count"] == len(
        {(row.study, row.slice) for row in result.slices}
    )
    rows = (tmp_path / "out" / "slices.csv").read_text().splitlines()
    assert len(rows) == 1 + len(result.slices)


def test_an_earlier_evaluation_is_replaced_when_told_and_whole(
    slices: list[StudySlice], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = evaluate(knowing(slices), slices, score_threshold=0.5)
    write_results(result, tmp_path)
    with pytest.raises(OutputError, match=r"already holds clicks\.csv"):
        write_results(result, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def failing(bins: object, path: Path) -> None:
        path.write_bytes(b"half a picture")
        raise OSError("no space left")

    other = replace(result, model="another")
    with monkeypatch.context() as patched:
        patched.setattr(phantom_files, "plot_reliability", failing)
        with pytest.raises(OutputError, match="cannot be written"):
            write_results(other, tmp_path, overwrite=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    write_results(other, tmp_path, overwrite=True)
    assert json.loads((tmp_path / "summary.json").read_text())["model"] == "another"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--click", "random"], "--click: used only with phantoms"),
        (["--score-threshold", "0.5", "--studies", "100"], "--studies, --score-threshold: used"),
        (["--slices", "6", "--bleed-free", "0"], "--slices, --bleed-free: used only with"),
        (["--calibration", "9", "--workers", "1"], "--calibration, --workers: used only"),
    ],
)
def test_options_of_phantoms_are_refused_with_a_data_set(
    tmp_path: Path, options: list[str], words: str
) -> None:
    """Those at their defaults, too: who gives one expects that it does something."""
    arguments = ["--data", str(tmp_path), "--out", str(tmp_path / "out"), *options]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("of_data", [True, False])
def test_a_folder_with_an_evaluation_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of_data: bool
) -> None:
    (tmp_path / "summary.json").write_text("{}")

    def work(*given: object, **options: object) -> None:
        raise AssertionError("the work has begun")

    monkeypatch.setattr(pipeline, "evaluate_data", work)
    monkeypatch.setattr(pipeline, "on_phantoms", work)
    monkeypatch.setattr(pipeline, "open_predictor", lambda *given: nullcontext(knowing([])))
    nothing = ChosenCases([], {})
    monkeypatch.setattr(finding, "find_cases", lambda *given: [])
    monkeypatch.setattr(chosen_cases, "chosen_cases", lambda *given: nothing)
    options = ["--out", str(tmp_path), *(["--data", "root"] if of_data else [])]
    done = CliRunner().invoke(main, options)
    assert done.exit_code == 2
    assert "already holds summary.json" in done.stderr


def few_slices(spec: StudySpec, **options: Any) -> Iterator[StudySlice]:
    """Slices of small heads, as few as SPEC's, with the bleeds and clicks that were asked for."""
    bleeds = SPEC.options.bleeds if spec.options.bleeds is None else spec.options.bleeds
    small = replace(spec, studies=2, options=replace(SPEC.options, bleeds=bleeds))
    return study_slices(small)


def test_a_lesions_volume_is_that_of_the_whole_lesion(slices: list[StudySlice]) -> None:
    for each in slices:
        volumes = np.array(each.lesions_ml)
        slabs = np.array([target.mask.sum() for target in each.clicks])
        slabs = slabs * each.spacing_mm**2 * each.extent_mm / 1000
        assert (volumes >= slabs - 1e-9).all()
        assert volumes[-1] == 0
    assert 15 < max(max(each.lesions_ml) for each in slices) < 60  # 20 to 40 mL were asked for


def test_the_threshold_comes_from_other_studies(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[StudySpec] = []

    def noted(spec: StudySpec, **options: Any) -> Iterator[StudySlice]:
        seen.append(spec)
        return few_slices(spec)

    monkeypatch.setattr(score_trials, "study_slices", noted)
    scores = {True: 0.7, False: 0.2}

    def answer(hu: NDArray[np.int16], clicks: Clicks) -> list[tuple[NDArray[np.bool_], float]]:
        # Dense blood is bright; what else is bright is a false accept.
        bright = [30 < hu[int(y), int(x)] < 100 for x, y in clicks]
        return [(hu > 50, scores[each]) for each in bright]

    predictor = Predictor("bright", answer, None)
    threshold = score_trials.calibrated_threshold(predictor, 30)
    assert threshold == pytest.approx(0.45)
    trials = score_trials.score_trials(predictor, threshold, 25)
    assert trials.clicks == 2 * 3 * 10  # three of six slices show brain
    assert 0 < trials.false_accepts.mean < 1
    assert [spec.studies for spec in seen] == [30, 25]
    seeds = [
        range(each.first_seed, each.first_seed + each.studies) for each in [*seen, StudySpec()]
    ]
    assert all(one.stop <= other.start or other.stop <= one.start
               for one, other in itertools.combinations(seeds, 2))  # fmt: skip
    assert seen[1].options.bleeds == ()


def test_a_calibrated_score_lies_on_the_diagonal() -> None:
    scores = np.linspace(0.025, 0.975, 20).tolist()
    assert calibration_error(reliability(scores, scores)) == pytest.approx(0)
    bins = reliability([0.1, 0.9, 1.2], [0.3, 0.5, 0.9])
    assert [each["clicks"] for each in bins] == [1, 2]
    assert bins[1]["mean_iou"] == pytest.approx(0.7)
    # (0.2 + 2 x 0.35) / 3
    assert calibration_error(bins) == pytest.approx(0.3)


def test_command_on_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from samihs_training.adapters import PRConfig, insert_pr_adapters
    from samihs_training.checkpoints.checkpoint import save_adapters, save_base

    base, adapters, sam = tmp_path / "b.safetensors", tmp_path / "a.safetensors", build_sam(TINY)
    about = {"window": [-20.0, 100.0], "metrics": {"score_threshold": 0.25}}
    save_base(base, sam, TINY, about)
    insert_pr_adapters(sam, PRConfig(rank=2))
    save_adapters(adapters, sam, PRConfig(rank=2), base, about)
    monkeypatch.setattr("samihs_training.data.studies.StudySpec", lambda *args: SPEC)
    monkeypatch.setattr("samihs_training.evaluation.score_trials.study_slices", few_slices)
    options = ["--checkpoint", str(adapters), "--base", str(base), "--workers", "1"]
    done = CliRunner().invoke(main, [*options, "--bleed-free", "2", "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "score threshold 0.25" in done.output
    assert "in 2 bleed-free studies" in done.output
    assert "Not for clinical use" in done.output
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["score_threshold_is"] == "measured"
    assert summary["weights"] == {
        "adapters_sha256": sha256_of(adapters),
        "base_sha256": sha256_of(base),
    }


@pytest.mark.parametrize(
    ("own", "asked", "origin"),
    [(0.5, None, "not measured"), (0.5, 0.2, "given"), (None, None, "measured")],
)
def test_where_the_threshold_comes_from_is_told(
    monkeypatch: pytest.MonkeyPatch, own: float | None, asked: float | None, origin: str
) -> None:
    monkeypatch.setattr(pipeline, "calibrated_threshold", lambda *given, **named: 0.3)

    def answer(hu: NDArray[np.int16], clicks: Clicks) -> list[tuple[Mask, float]]:
        return [(np.zeros(hu.shape, bool), 0.4) for _ in clicks]

    predictor = Predictor("a bundle", answer, own, threshold_is="not measured")
    told = pipeline.on_phantoms(predictor, SPEC, asked, 1, 0, 1, Console(quiet=True)).summary()
    assert told["score_threshold"] == next(e for e in (asked, own, 0.3) if e is not None)
    assert told["score_threshold_is"] == origin


def test_a_bundle_is_named_by_its_id_and_by_what_it_was_made_of() -> None:
    bundle = Bundle.open(shipped_bundle())
    names = ("adapters_sha256", "base_sha256")
    made_of = {name: bundle.manifest.provenance[name] for name in names}
    with bundle_predictor(None, "cpu") as predictor:
        assert predictor.weights == {"bundle_id": bundle.id, **made_of}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--checkpoint", "a.safetensors"], "give --checkpoint and --base together"),
        (["--bundle", "nowhere"], "nowhere"),
        (["--checkpoint", "a", "--base", "b", "--backend", "cpu"], "--backend: used only with a "),
        (["--overwrite"], "--overwrite: used only with --out"),
        (["--checkpoint", "none", "--base", "none"], "no checkpoint at none"),
    ],
)
def test_errors_are_one_line(options: list[str], message: str) -> None:
    done = CliRunner().invoke(main, options)
    assert done.exit_code == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
