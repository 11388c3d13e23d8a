"""The model card: what was measured, as readable tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from samihs_export.card import model_card

from .conftest import Exported


def figures(
    mean: float | None, low: float | None = None, high: float | None = None
) -> dict[str, Any]:
    return {"mean": mean, "low": low, "high": high, "count": 7, "undefined": 0}


ACCURACY: dict[str, Any] = {
    "data": "phantoms",
    "studies": 2,
    "score_threshold": 0.0693867,
    "bleed_free": {"clicks": 40, "false_accepts": {"mean": 0.114, "low": 0.074, "high": 0.158}},
    "reliability": [{"low": 0.1, "clicks": 9, "mean_score": 0.15, "mean_iou": 0.2949}],
    "by_type": {
        "subdural": {
            "dice": figures(0.7619, 0.7234, 0.7981),
            "served_dice": figures(0.7012, 0.66, 0.74),
            "hd95_mm": figures(None),
            "volume_error_ml": figures(-0.119),
        }
    },
    "by_slice": {"all": {"dice": figures(0.8061, 0.77, 0.84), "hd95_mm": figures(5.2)}},
}


def test_figures_are_in_tables_and_sensibly_rounded(exported: Exported) -> None:
    card = model_card(replace(exported.bundle.manifest, accuracy=ACCURACY))
    assert "| subdural | 7 | 0.762 (0.723 to 0.798) | 0.701 (0.66 to 0.74) |  | -0.119 |" in card
    assert "| all | 7 | 0.806 (0.77 to 0.84) | 5.2 |" in card
    assert "| 0.1 | 9 | 0.15 | 0.29 |" in card
    assert "- score threshold: 0.0694" in card
    assert "- bleed free: clicks 40, false accepts (mean 0.114, low 0.074, high 0.158)" in card
    assert "{" not in card
    assert "None" not in card
    assert "## Limits" in card


def test_figures_of_patients_are_in_a_table_of_their_own(exported: Exported) -> None:
    patients = {
        "data": {"cases": 9, "fold": 0, "trained_on": "perhaps"},
        "prompt": "deepest",
        "by_slice": {"dice": figures(0.7, 0.6, 0.8), "hd95_mm": figures(None)},
        "by_patient": {"dice": figures(0.71, None, None), "hd95_mm": figures(4.0, 3.0, 5.0)},
    }
    manifest = exported.bundle.manifest
    for accuracy in ({"patients": patients}, {**ACCURACY, "patients": patients}):
        card = model_card(replace(manifest, accuracy=accuracy))
        assert "- data: cases 9, fold 0, trained on perhaps" in card
        assert "**The model may have been trained on some of these patients.**" in card
        assert "| Dice | 0.7 (0.6 to 0.8) | 0.71 |" in card
        assert "| HD95, mm |  | 4 (3 to 5) |" in card
        assert "{" not in card


def test_missing_measurements_are_stated(exported: Exported) -> None:
    card = model_card(replace(exported.bundle.manifest, accuracy={}))
    assert "## Accuracy\n\nNot measured at export." in card


def test_the_origin_of_the_score_threshold_is_stated(exported: Exported) -> None:
    manifest = exported.bundle.manifest
    assert "- Score threshold: 0.42, measured\n" in model_card(manifest)
    guessed = {**manifest.provenance, "score_threshold": "not measured"}
    card = model_card(replace(manifest, score_threshold=0.5, provenance=guessed))
    assert "- Score threshold: 0.5, not measured: a guess, which may refuse many" in card
    older = {k: each for k, each in manifest.provenance.items() if k != "score_threshold"}
    assert "- Score threshold: 0.42\n" in model_card(replace(manifest, provenance=older))
