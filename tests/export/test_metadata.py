"""A bundle's record of its checkpoint: figures, threshold, method, window; invalid is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from samihs_export.figures import DEFAULT_THRESHOLD, Figures, figures_of, hashes
from samihs_export.metadata import metadata_of
from samihs_runtime.errors import CheckpointError, ExportError, UsageError
from samihs_training.checkpoints.checkpoint import LoadedAdapters
from samihs_training.methods import Bottleneck, FullFineTuning, LoRA, Method

ABOUT: dict[str, Any] = {"window": [0, 80], "training_data": "none", "plausible_hu": [20, 100]}


def loaded(method: Method | None = None, **changes: Any) -> LoadedAdapters:
    """A checkpoint without its model, which is not needed here."""
    about = {key: each for key, each in {**ABOUT, **changes}.items() if each is not None}
    model: Any = None
    return LoadedAdapters(model, method or LoRA(), about, 64 * "a", 64 * "b")


def figures(folder: Path, text: str | None = None, score_threshold: float | None = None) -> Figures:
    """Figures of a checkpoint in the folder, with this ``evaluation.json`` beside it."""
    if text is not None:
        (folder / "evaluation.json").write_text(text)
    paths = None, folder / "adapters.safetensors", Path("base.safetensors")
    return figures_of(*paths, loaded(), mirrored=False, score_threshold=score_threshold)


def summary(**fields: Any) -> str:
    return json.dumps({"score_threshold": 0.0961, "weights": hashes(loaded()), **fields})


def test_an_unmeasured_threshold_is_warned_about_and_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = figures(tmp_path)
    assert found == Figures({}, DEFAULT_THRESHOLD, "not measured")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: nothing was measured for")
    assert f"samihs-evaluate --checkpoint {tmp_path}/adapters.safetensors --base base" in line
    assert "--score-threshold" in line
    about = metadata_of(loaded(), "tiny", found)
    assert about.score_threshold == DEFAULT_THRESHOLD
    assert about.provenance["score_threshold"] == "not measured"


def test_a_threshold_is_the_one_given_else_the_one_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = figures(tmp_path, score_threshold=0.25)
    assert (given.score_threshold, given.threshold_is) == (0.25, "given")
    measured = figures(tmp_path, summary())
    assert (measured.score_threshold, measured.threshold_is) == (0.096, "measured")
    both = figures(tmp_path, summary(), score_threshold=0.25)
    assert (both.score_threshold, both.threshold_is) == (0.25, "given")
    assert both.accuracy == json.loads(summary())
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan"), float("inf")])
def test_an_invalid_threshold_is_refused(tmp_path: Path, value: float) -> None:
    with pytest.raises(UsageError, match="expected a number from 0 to 1"):
        figures(tmp_path, score_threshold=value)
    if not math.isfinite(value):
        with pytest.raises(ExportError, match=r"no summary\.json"):
            figures(tmp_path, summary(score_threshold=value))


@pytest.mark.parametrize("value", [-1.2, 2.1, 42])
def test_a_measured_threshold_that_is_none_is_refused_unless_one_is_given(
    tmp_path: Path, value: float
) -> None:
    """A percentage would refuse every answer."""
    place = rf"{tmp_path}/evaluation\.json: score_threshold is {value}, expected -1 to 2"
    with pytest.raises(ExportError, match=f"^{place}: .*, or set --score-threshold$"):
        figures(tmp_path, summary(score_threshold=value))
    given = figures(tmp_path, summary(score_threshold=value), score_threshold=0.0)
    assert given == Figures(json.loads(summary(score_threshold=value)), 0.0, "given")


@pytest.mark.parametrize(("value", "kept"), [(-0.0001, 0), (-0.25, -0.25), (1.15, 1.15)])
def test_a_measured_threshold_is_kept(tmp_path: Path, value: float, kept: float) -> None:
    """A score is a regression: what separates best may lie a little outside 0 to 1."""
    assert figures(tmp_path, summary(score_threshold=value)).score_threshold == kept


@pytest.mark.parametrize("origin", ["measured", "given", "not measured"])
def test_a_threshold_stays_what_it_was_when_it_was_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], origin: str
) -> None:
    """A guess is no measurement because somebody counted how often it errs."""
    found = figures(tmp_path, summary(score_threshold=0.5, score_threshold_is=origin))
    assert (found.score_threshold, found.threshold_is) == (0.5, origin)
    assert found.accuracy["score_threshold"] == 0.5
    warned = "no score threshold was measured" in capsys.readouterr().err
    assert warned == (origin == "not measured")


def test_figures_of_another_checkpoint_in_the_folder_are_not_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody named them: they are those of adapters.safetensors, beside adapters.best."""
    other = summary(weights={"adapters_sha256": 64 * "0"})
    assert figures(tmp_path, other, score_threshold=0.25) == Figures({}, 0.25, "given")
    (line,) = capsys.readouterr().err.splitlines()
    assert "evaluation.json was measured on other weights" in line
    assert line.startswith("warning: ")


def test_a_figure_that_the_manifest_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"no summary\.json of samihs-evaluate"):
        figures(tmp_path, summary(dice=float("nan")))


def test_figures_of_a_data_set_have_no_threshold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They go into the bundle; the threshold is that of the phantoms, if these were measured."""
    of_data = {"weights": hashes(loaded()), "patients": 3, "by_slice": {}, "by_patient": {}}
    given = tmp_path / "summary.json"
    given.write_text(json.dumps(of_data))
    paths = given, tmp_path / "adapters.safetensors", Path("base.safetensors")
    alone = figures_of(*paths, loaded(), mirrored=False)
    assert alone == Figures({"patients": of_data}, DEFAULT_THRESHOLD, "not measured")
    assert "warning: no score threshold was measured for" in capsys.readouterr().err
    named = figures_of(*paths, loaded(), mirrored=False, score_threshold=0.2)
    assert named == Figures({"patients": of_data}, 0.2, "given")
    (tmp_path / "evaluation.json").write_text(summary())
    both = figures_of(*paths, loaded(), mirrored=False)
    assert both == Figures({**json.loads(summary()), "patients": of_data}, 0.096, "measured")
    assert capsys.readouterr().err == ""
    given.write_text(json.dumps({**of_data, "weights": {"adapters_sha256": 64 * "0"}}))
    with pytest.raises(ExportError, match="measured on other weights"):
        figures_of(*paths, loaded(), mirrored=False)


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (LoRA(rank=3), {"adapters": "lora", "rank": 3}),
        (Bottleneck(), {"adapters": "bottleneck"}),
        (FullFineTuning(), {"adapters": "full"}),
    ],
)
def test_the_method_is_recorded(method: Method, said: dict[str, Any]) -> None:
    about = metadata_of(loaded(method), "tiny", Figures())
    assert about.method.items() >= said.items()
    assert json.loads(json.dumps(about.method)) == about.method


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("window", None),
        ("window", [0]),
        ("window", {"rule": "fixed", "low": 0}),
        ("window", [80, 0]),
        ("window", [0, float("inf")]),
        ("plausible_hu", 5),
        ("plausible_hu", [100, 20]),
        ("plausible_hu", [float("nan"), 20]),
        ("plausible_hu", ["low", "high"]),
        ("training_data", None),
        ("training_data", ""),
    ],
)
def test_an_invalid_field_of_a_checkpoint_is_named(field: str, value: Any) -> None:
    with pytest.raises(CheckpointError, match=f"the adapter checkpoint's {field} is"):
        metadata_of(loaded(**{field: value}), "tiny", Figures())
