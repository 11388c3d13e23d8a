"""The paper's own model from Meta's layout to a click, with commands only; prints time and memory.

``python -m tests.training.vit_b_path FOLDER`` makes, in FOLDER: a random-weight file in Meta's
``sam_vit_b`` layout, adapters after a few steps on phantoms, a bundle, a phantom study, a result.
The last line is JSON: seconds of each step, peak memory of this process and its children in GB.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from click import Command
from click.testing import CliRunner

from samihs_export import cli as export
from samihs_export import pipeline
from samihs_runtime import cli as infer
from samihs_training import cli as train
from samihs_training.data.phantom import cli as phantom
from samihs_training.network.sam import build_sam, preset

RECIPE = """
slices = 4
rank = 100
[adapt]
steps = 3
learning_rate = 5e-4
batch = 1
prompts = 2
correct = 0.0
checkpoint_activations = true
"""
OPTIONS = pipeline.ExportOptions(precisions=(), parity_slices=1, reference_slices=1, trained=False)
"""One slice is enough to prove random weights by; each costs several encodes of 10 to 20 s."""


def main(folder: Path) -> None:
    """Every step in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    base, run = folder / "sam_vit_b_random.pth", folder / "run"
    bundle, study = folder / "bundle", folder / "study"
    (folder / "recipe.toml").write_text(RECIPE)
    checkpoint = run / "adapters.safetensors"
    pipeline.ExportOptions = lambda **given: OPTIONS  # type: ignore[assignment, misc]
    steps: dict[str, Callable[[], object]] = {
        "base": partial(write_base, base),
        "train": partial(
            command, train.main, "fit", "--config", folder / "recipe.toml", "--base", base,
            "--out", run, "--workers", 0,
        ),
        "export": partial(
            command, export.main, "bundle", "--checkpoint", checkpoint, "--base", base,
            "--out", bundle, "--untrained",
        ),
        "phantom": partial(
            command, phantom.main, study, "--seed", 7, "--slices", 6, "--bleed", "intraparenchymal"
        ),
        "infer": partial(
            command, infer.main, study, "--click-file", study / "truth.json", "--bundle", bundle,
            "--no-propagation", "--out", folder / "result",
        ),
    }  # fmt: skip
    report: dict[str, float] = {}
    for name, step in steps.items():
        started = time.perf_counter()
        step()
        report[f"{name}_s"] = round(time.perf_counter() - started, 1)
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    report["peak_gb"] = round(max(resource.getrusage(k).ru_maxrss for k in kinds) / 2**20, 2)
    print(json.dumps(report))


def write_base(path: Path) -> None:
    """Random weights under the names and in the shapes of Meta's file."""
    torch.manual_seed(0)
    torch.save(build_sam(preset("vit_b")).state_dict(), path)


def command(program: Command, *arguments: object) -> None:
    """Run one of the project's commands; its output goes on where it fails."""
    result = CliRunner().invoke(program, [str(each) for each in arguments])
    if result.exit_code:
        sys.exit(f"{program.name} {arguments}: {result.output}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
