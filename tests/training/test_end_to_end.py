"""Meta's layout -> PR adapters on phantoms -> checkpoint -> bundle -> samihs-infer, with ViT-B."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from samihs_runtime.bundle import Bundle
from samihs_training.checkpoints.checkpoint import load_adapters

from . import vit_b_path

MOST_GB = 12.0


def test_the_slow_path_speaks_the_pipelines_options() -> None:
    """Else nobody would see it break until it is run by hand."""
    assert not vit_b_path.OPTIONS.trained
    assert vit_b_path.OPTIONS.precisions == ()


@pytest.mark.slow
def test_vit_b_goes_from_metas_file_to_a_click(tmp_path: Path) -> None:
    command = [sys.executable, "-m", vit_b_path.__name__, str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    print(report)
    assert report["peak_gb"] < MOST_GB
    loaded = load_adapters(
        tmp_path / "run" / "adapters.safetensors", tmp_path / "sam_vit_b_random.pth"
    )
    assert loaded.description["trained_parameters"] == {
        "adapters": 174_432, "prompt_encoder": 6_220, "mask_decoder": 4_058_340,
    }  # fmt: skip
    assert loaded.description["steps"] == 3
    manifest = Bundle.open(tmp_path / "bundle").manifest
    assert (manifest.preset, manifest.image_size) == ("vit_b", 1024)
    assert len(manifest.merge["residuals"]) == 24
    assert (tmp_path / "result" / "report.json").is_file()
