"""A run on a data set, from the command to the held-out fold's numbers; nobody leaks."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from samihs_runtime.errors import UsageError
from samihs_training.checkpoints.checkpoint import load_adapters, save_adapters, save_base
from samihs_training.checkpoints.tensorfile import read_safetensors
from samihs_training.cli import main
from samihs_training.config import read_recipe, recipe_from
from samihs_training.data.folds import make_folds, read_folds, write_folds
from samihs_training.data.patients import PatientSlices
from samihs_training.data.sources import Drawing, Drawn
from samihs_training.evaluation.cli import main as evaluate
from samihs_training.methods import apply_method, make_method
from samihs_training.network.sam import build_sam

from .test_data_sets import bcihm, head, save
from .tiny import TINY

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MONAI 1.6's own calls
NAMES = {"049", "050", "051", "052", "053"}
RECIPE = """
rank = 2
window = [0.05, 99.5]
window_rule = "percentiles"
loss = "dice_bce"
loss_options = { weight = 0.4 }
validate_every = 2
validation_prompt = "middle"
amp = false
base_checkpoint = "base.safetensors"
[data]
root = "elsewhere"
fold_count = 3
size = 64
[adapt]
steps = 3
learning_rate = 1e-3
batch = 2
prompts = 2
prompt = "box"
correct = 0.5
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_base(tmp_path / "base.safetensors", build_sam(TINY), TINY, {})
    (tmp_path / "recipe.toml").write_text(RECIPE)
    bcihm(tmp_path / "data", len(NAMES))
    return tmp_path


def fit(here: Path, *options: str, data: str = "data") -> Result:
    arguments = ["fit", "--config", here / "recipe.toml", "--base", here / "base.safetensors"]
    arguments += ["--data", here / data, "--out", here / "run", "--workers", "0", *options]
    return CliRunner().invoke(main, [str(each) for each in arguments])


def test_a_run_trains_on_some_patients_and_is_judged_on_the_others(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[bool, set[str]] = {True: set(), False: set()}
    draw = PatientSlices.draw

    def noted(self: PatientSlices, index: int, drawing: Drawing, rng: np.random.Generator) -> Drawn:
        seen[drawing.vary].add(self.slices[index][0])
        return draw(self, index, drawing, rng)

    monkeypatch.setattr(PatientSlices, "draw", noted)
    done = fit(here, "--fold", "1")
    assert done.exit_code == 0, done.output
    run = here / "run"
    folds = read_folds(run / "folds.json")
    kept_back = set(folds.cases(1))
    assert folds.fold_of.keys() == NAMES
    assert seen[True] == NAMES - kept_back  # three steps of two slices: a whole epoch
    assert seen[False] <= kept_back
    assert seen[False]
    report = json.loads((run / "report.json").read_text())
    assert report["recipe"]["loss"] == "dice_bce"
    assert len(report["validations"]) == 2

    _, about = read_safetensors(run / "adapters.safetensors")
    assert about["window"] == {"rule": "percentiles", "low": 0.05, "high": 99.5}
    assert about["data"]["folds_sha256"] == folds.sha256
    assert f"{len(kept_back)} cases were held out (fold 1 of 3" in about["training_data"]
    text = json.dumps(about)
    assert str(here) not in text
    assert not any(name in text for name in NAMES)

    asked = ["--data", str(here / "data"), "--folds", str(run / "folds.json")]
    asked += ["--checkpoint", str(run / "adapters.safetensors"), "--out", str(here / "scores")]
    asked += ["--base", str(here / "base.safetensors")]
    wrong = CliRunner().invoke(evaluate, [*asked, "--fold", "0"])
    assert wrong.exit_code == 2
    assert "was trained on these patients; by these folds it held out fold 1" in wrong.stderr
    assert not (here / "scores").exists()
    right = CliRunner().invoke(evaluate, [*asked, "--fold", "1", "--clicks", "2"])
    assert right.exit_code == 0, right.output
    assert right.stderr == ""
    with (here / "scores" / "patients.csv").open() as file:
        assert {row["patient"] for row in csv.DictReader(file)} == kept_back
    write_folds(make_folds(dict.fromkeys(NAMES, 1.0), count=3, seed=9), here / "others.json")
    others = ["--folds", str(here / "others.json"), "--out", str(here / "other scores")]
    mixed = CliRunner().invoke(evaluate, [*asked, *others, "--fold", "1"])
    assert mixed.exit_code == 0, mixed.output
    assert "was trained with other folds" in mixed.stderr


def test_what_a_base_was_trained_on_counts_for_what_is_made_of_it(here: Path) -> None:
    """A base of unknown origin may have seen the very patients that are held out."""
    about = {"training_data": "somebody's", "data": {"unknown": True}}
    save_base(here / "base.safetensors", build_sam(TINY), TINY, about)
    assert fit(here).exit_code == 0
    adapters = here / "run" / "adapters.safetensors"
    _, about = read_safetensors(adapters)
    assert about["training_data"].endswith("by patient); before that: somebody's")
    assert (about["data"]["unknown"], about["data"]["folds"]) == (True, 3)
    asked = ["--data", here / "data", "--folds", here / "run" / "folds.json", "--fold", "0"]
    asked += ["--checkpoint", adapters, "--base", here / "base.safetensors", "--out", here / "out"]
    done = CliRunner().invoke(evaluate, [str(each) for each in asked])
    assert done.exit_code == 0, done.output
    assert "it may have seen any of these cases" in done.stderr
    summary = json.loads((here / "out" / "summary.json").read_text())
    assert summary["data"]["trained_on"] == "perhaps"


def test_other_folds_for_the_score_are_refused_before_a_run_begins(here: Path) -> None:
    assert fit(here).exit_code == 0
    (here / "run").rename(here / "first")
    again = ["--adapters", str(here / "first" / "adapters.safetensors")]
    text = RECIPE.replace("validate_every = 2\n", "")
    (here / "recipe.toml").write_text(f"{text}[score]\nsteps = 1\nlearning_rate = 1e-3\n")
    other = fit(here, *again, "--fold", "1")
    assert other.exit_code == 2, other.output
    assert "other folds of this data set" in other.stderr
    assert not (here / "run").exists()
    (here / "recipe.toml").write_text((here / "recipe.toml").read_text().replace("64", "32"))
    small = fit(here, *again)
    assert "trained on slices of 64 pixels: the recipe's [data] has size = 32" in small.stderr
    (here / "recipe.toml").write_text((here / "recipe.toml").read_text().replace("32", "64"))
    bcihm(here / "more", 6)  # and one patient more: another data set, with folds of its own
    assert fit(here, *again, data="more").exit_code == 0
    _, about = read_safetensors(here / "run" / "adapters.safetensors")
    assert about["data"]["unknown"]


def test_a_run_goes_on_only_with_the_data_that_it_began_with(here: Path) -> None:
    """A case that joins the data set cannot shift the folds of the others; masks cannot change."""
    assert fit(here, "--fold", "1").exit_code == 0
    hu, mask = head(9)
    save(hu, here / "data" / "ct_scans" / "900.nii")
    save(mask, here / "data" / "masks" / "900.nii")
    again = fit(here, "--fold", "1", "--resume")
    assert again.exit_code == 2
    assert "run/folds.json has no fold for 900" in again.stderr
    for folder in ("ct_scans", "masks"):
        (here / "data" / folder / "900.nii").unlink()
    assert fit(here, "--fold", "1", "--resume").exit_code == 0
    _, mask = head(1)
    save(np.roll(mask, 1, axis=1), here / "data" / "masks" / "050.nii")
    changed = fit(here, "--fold", "1", "--resume")
    assert changed.exit_code == 2
    assert "the data set has changed since it began" in changed.stderr


def faulty(here: Path) -> None:
    _, mask = head(0)
    save(mask * 2, here / "data" / "masks" / "050.nii")


def of_others(here: Path) -> None:
    write_folds(make_folds({"1": 1.0, "2": 2.0}, count=2), here / "folds.json")


def nothing(here: Path) -> None:
    """The data are right."""


@pytest.mark.parametrize(
    ("harm", "options", "words"),
    [
        (faulty, [], "050.nii: labels 2"),
        (nothing, ["--layout", "dicom"], "no case of layout dicom"),
        (nothing, ["--fold", "3"], "fold = 3: expected 0 to 2"),
        (of_others, ["--folds", "folds.json"], "folds.json has no fold for 049, 050, 051 (5 in"),
        (nothing, ["--folds", "none.json"], "none.json"),
    ],
)
def test_bad_data_is_named_in_one_line_and_nothing_is_left(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    harm: Callable[[Path], None],
    options: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(here)
    harm(here)
    before = sorted(here.iterdir())
    failed = fit(here, *options)
    assert failed.exit_code == 2, failed.output
    assert words in failed.stderr
    assert len(failed.stderr.strip().splitlines()) == 1
    assert sorted(here.iterdir()) == before


def test_more_folds_than_patients_and_no_data(here: Path) -> None:
    (here / "recipe.toml").write_text(RECIPE.replace("fold_count = 3", "fold_count = 9"))
    failed = fit(here)
    assert failed.exit_code == 2
    assert "fold_count = 9" in failed.stderr
    assert "has 5 patients only" in failed.stderr
    lone = ["fit", "--quick", "--out", str(here / "run"), "--fold", "1"]
    failed = CliRunner().invoke(main, lone)
    assert failed.exit_code == 2
    assert (
        failed.stderr
        == "error: --fold: used only with a data set; name one with --data, or in [data]\n"
    )
    failed = fit(here, data="absent")
    assert "absent: no such folder" in failed.stderr
    assert not (here / "run").exists()


def test_evaluation_needs_data_a_file_and_a_fold(here: Path) -> None:
    write_folds(make_folds(dict.fromkeys(NAMES, 1.0), count=2), here / "folds.json")
    root, folds = ["--data", str(here / "data")], ["--folds", str(here / "folds.json")]
    for options, words in (
        (
            [*folds, "--fold", "0"],
            "--folds, --fold: used only with a data set; name one with --data",
        ),
        (["--prompt", "box", "--clicks", "2"], "--prompt, --clicks: used only with a data set"),
        ([*root, "--fold", "0"], "give --folds and --fold together"),
        ([*root, *folds, "--fold", "2"], "folds.json has folds 0 to 1"),
    ):
        failed = CliRunner().invoke(evaluate, [*options, "--out", str(here / "scores")])
        assert failed.exit_code == 2
        assert words in failed.stderr
        assert len(failed.stderr.strip().splitlines()) == 1
        assert not (here / "scores").exists()


STAGE = {"steps": 1, "learning_rate": 1e-3}


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        ({"loss": "tversky"}, "loss 'tversky': expected one of boundary_sensitive, bce"),
        ({"loss": "bce", "loss_options": {"cap": 1}}, "loss bce: unknown option cap"),
        ({"adapt": {**STAGE, "prompt": "scribble"}}, "prompt 'scribble': expected one of hand"),
        ({"adapt": {**STAGE, "prompt_options": {"count": 2}}}, "prompt hand: unknown option count"),
        ({"adapt": {**STAGE, "negatives": 2.0}}, "negatives = 2.0"),
        ({"adapt": {**STAGE, "correct": 5}}, "correct = 5: expected a share from 0 to 1"),
        ({"adapt": {**STAGE, "warmup": 100}}, "warmup = 100: expected a share of the steps"),
        ({"adapt": {**STAGE, "warmup": -0.1}}, "warmup = -0.1: expected a share"),
        ({"adapt": {**STAGE, "clip": -1}}, "clip = -1: expected 0 or more"),
        ({"adapt": {**STAGE, "weight_decay": -0.1}}, "weight_decay = -0.1: expected 0 or more"),
        ({"adapt": {**STAGE, "schedule": "step", "halve_every": -5}}, "halve_every = -5: expected"),
        ({"adapt": {**STAGE, "halve_every": 30}}, "halve_every = 30 would change nothing"),
        ({"adapt": {**STAGE, "schedule": "step", "warmup": 0.1}}, "warmup = 0.1 would change"),
        ({"adapt": {**STAGE, "steps": "many"}}, r"\[adapt\]: steps = 'many': expected a whole"),
        ({"adapt": 3}, r"\[adapt\] = 3: expected a table"),
        ({"amp": 1}, "recipe: amp = 1: expected true or false"),
        ({"validation_prompt": "no"}, "prompt 'no'"),
        ({"window": [1]}, r"window = \[1\]: expected two numbers"),
        ({"window": [5, 1]}, "window = .5.0, 1.0.*low below high"),
        ({"window": [0, 120], "window_rule": "percentiles"}, "percentiles from 0 to 100"),
        ({"window_rule": "wide"}, "window_rule = 'wide'"),
        ({"data": {}}, r"\[data\]: root is missing"),
        ({"data": {"root": "d", "layout": "png"}}, "layout = 'png': expected bcihm or instance"),
        ({"data": {"root": "d", "target": "all"}}, "target = 'all': expected lesion or slice"),
        ({"data": {"root": "d", "fold": 5}}, "fold = 5: expected 0 to 4"),
        ({"data": {"root": "d", "fold": "a"}}, r"\[data\]: fold = 'a': expected a whole number"),
        ({"data": {"root": "d", "fold_count": 1}}, "fold_count = 1"),
        ({"data": {"root": "d", "augmentation": {"blur": 1}}}, "unknown option blur"),
        ({"data": {"root": "d", "augmentation": {"mirror": 2}}}, "augmentation mirror 2"),
    ],
)
def test_wrong_recipes_are_refused(raw: dict[str, object], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        recipe_from({"base": STAGE, "adapt": STAGE, **raw})


def test_the_authors_recipe_has_their_prompts_loss_and_window() -> None:
    recipe = read_recipe(Path("authors"))
    assert (recipe.adapt.prompt, recipe.adapt.negatives) == ("random", 0.0)
    assert recipe.validation_prompt == "middle"
    assert recipe.loss_options == {"reduction": "batch"}
    assert (recipe.windowing().rule, recipe.window) == ("percentiles", (0.05, 99.5))
    mini = read_recipe(None)
    assert (mini.adapt.prompt, mini.loss, mini.data) == ("hand", "boundary_sensitive", None)


def test_a_checkpoint_of_before_the_losses_had_names_is_read(tmp_path: Path) -> None:
    sam, base = build_sam(TINY), tmp_path / "b.safetensors"
    save_base(base, sam, TINY, {})
    method = make_method("pr", {"rank": 2})
    apply_method(method, sam)
    about = {"window": [-20.0, 100.0], "recipe": {"loss_reduction": "sample", "slices": 4}}
    save_adapters(tmp_path / "a.safetensors", sam, method, base, about)
    loaded = load_adapters(tmp_path / "a.safetensors", base)
    assert (loaded.window.rule, loaded.window.low, loaded.window.high) == ("fixed", -20, 100)
