"""One set of weights in every form to be measured: state dict, ONNX, engines; and a study."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from gpu_work import WINDOW, Work
from trial_bundle import TINY, manifest_of

from samihs_export.engines.tensorrt import build_engines
from samihs_export.float_types import Precision
from samihs_export.graphs.families import write_graphs
from samihs_export.merge import merge
from samihs_runtime.bundle import Bundle, GraphEntry, WindowRule, write_bundle
from samihs_runtime.errors import SamihsError
from samihs_training.checkpoints.checkpoint import load_adapters
from samihs_training.data.phantom import BleedType, PhantomOptions, generate_study, write_dicom
from samihs_training.network.model import SamihsModel
from samihs_training.network.sam import build_sam, preset

SLICES = 32
TRIAL_SIZE = 128
"""Frame of the model with which the benchmark is tested, pixels."""


def prepare(
    work: Work,
    model: SamihsModel,
    precisions: Sequence[Precision],
    *,
    slice_size: int,
    device: str,
    brief: bool,
    say: Callable[[str], None],
) -> dict[str, str]:
    """Write everything that the rows read.

    Args:
        precisions: of TensorRT's graphs and engines; none if TensorRT does not support the GPU.

    Returns:
        Why there are no engines, by precision; empty if all were built.
    """
    config = model.config
    settings = {
        "config": asdict(config),
        "slice_size": slice_size,
        "device": device,
        "brief": brief,
    }
    work.settings.write_text(json.dumps(settings))
    torch.save(model.state_dict(), work.weights)
    say(f"a study of {SLICES} slices")
    options = PhantomOptions(matrix=slice_size, slices=SLICES, bleeds=(BleedType.INTRAPARENCHYMAL,))
    study = generate_study(11, options)
    write_dicom(study, work.study)
    _write_cases(work, study.hu, slice_size)
    say("exporting for ONNX Runtime")
    onnx = write_graphs(work.onnx_files, model, "onnx", "fp32", slice_size, dict)
    refused: dict[str, str] = {}
    if not precisions:
        _bundle(work.onnx_files, work.bundle("fp32"), model, slice_size, onnx)
    for precision in precisions:
        say(f"exporting {precision} for TensorRT")
        folder = work.folder / f"files-{precision}"
        shutil.copytree(work.onnx_files, folder)
        graphs = write_graphs(folder, model, "trt", precision, slice_size, dict)
        bundle = _bundle(folder, work.bundle(precision), model, slice_size, onnx, graphs)
        if device == "cuda":
            say(f"building {precision} engines for this GPU")
            try:
                build_engines(bundle, bundle.engines, (None,), precision=precision)
            except SamihsError as error:
                refused[precision] = str(error)
    return refused


def load_model(name: str, adapters: Path | None, base: Path | None) -> SamihsModel:
    """Trained weights, merged, if they are given; else random weights of a preset."""
    if adapters is not None and base is not None:
        return merge(load_adapters(adapters, base).model)[0]
    torch.manual_seed(0)
    config = replace(TINY, image_size=TRIAL_SIZE) if name == TINY.name else preset(name)
    return SamihsModel(build_sam(config), config).eval()


def _write_cases(work: Work, hu: np.ndarray, size: int) -> None:
    """Four slices with one click each, in the middle of the head."""
    chosen = np.linspace(len(hu) // 4, 3 * len(hu) // 4, 4).astype(int)
    points = np.asarray([[[(size / 2 + 3 * i, size / 2), (0, 0)]] for i in range(4)], np.float32)
    labels = np.tile(np.asarray((1, -1), np.int32), (4, 1, 1))
    np.savez(work.cases, hu=hu[chosen].astype(np.float32), points=points, labels=labels)


def _bundle(
    files: Path, out: Path, model: SamihsModel, slice_size: int, *graphs: GraphEntry
) -> Bundle:
    """A bundle of ONNX Runtime's graphs and any of TensorRT's, as ``samihs-export`` writes them.

    Without gates, since parity is what the benchmark measures.
    """
    manifest = manifest_of(model.config, slice_size, WindowRule("fixed", *WINDOW), graphs)
    return write_bundle(files, manifest, out)
