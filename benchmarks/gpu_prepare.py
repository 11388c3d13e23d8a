"""One set of weights in every form that is measured: state dict, ONNX, engines; and a study."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from gpu_work import WINDOW, Work
from trial_bundle import manifest_of

from samihs_export.families import attention_form
from samihs_export.graphs import DecoderGraph, EncoderGraph
from samihs_export.merge import merge
from samihs_export.onnx import export_decoder, export_encoder
from samihs_export.precision import Precision, to_precision
from samihs_export.tensorrt import ProfileSizes, build_engines
from samihs_runtime.bundle import Bundle, GraphEntry, WindowRule, write_bundle
from samihs_runtime.errors import SamihsError
from samihs_training.checkpoint import load_adapters
from samihs_training.data.phantom import BleedType, PhantomOptions, generate_study, write_dicom
from samihs_training.model import SamihsModel
from samihs_training.sam import SamConfig, build_sam, preset

TINY = SamConfig(
    "tiny",
    width=48,
    depth=2,
    heads=3,
    global_blocks=(1,),
    image_size=128,
    window=5,
    prompt_width=32,
    decoder_depth=1,
    decoder_heads=4,
    decoder_mlp=64,
    score_hidden=32,
)
"""For the benchmark's own test."""
SLICES = 32


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

    Returns:
        Why there are no engines, by precision; empty where all were built.
    """
    config = model.config
    settings = {
        "config": dataclasses.asdict(config),
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
    refused = {}
    for precision in precisions:
        say(f"exporting {precision}")
        bundle = _bundle(work, model, precision, slice_size)
        if device == "cuda":
            say(f"building {precision} engines for this GPU")
            try:
                sizes = ProfileSizes()
                build_engines(bundle, bundle.engines, (None,), precision=precision, sizes=sizes)
            except SamihsError as error:
                refused[precision] = str(error)
    return refused


def load_model(name: str, adapters: Path | None, base: Path | None) -> SamihsModel:
    """Trained weights where they are given, else a preset's random ones, merged."""
    if adapters is not None and base is not None:
        return merge(load_adapters(adapters, base).model)[0]
    torch.manual_seed(0)
    config = TINY if name == "tiny" else preset(name)
    return SamihsModel(build_sam(config), config).eval()


def _write_cases(work: Work, hu: np.ndarray, size: int) -> None:
    """Four slices with a click each, in the middle of the head."""
    chosen = np.linspace(len(hu) // 4, 3 * len(hu) // 4, 4).astype(int)
    points = np.asarray([[[(size / 2 + 3 * i, size / 2), (0, 0)]] for i in range(4)], np.float32)
    labels = np.tile(np.asarray((1, -1), np.int32), (4, 1, 1))
    np.savez(work.cases, hu=hu[chosen].astype(np.float32), points=points, labels=labels)


def _bundle(work: Work, model: SamihsModel, precision: Precision, slice_size: int) -> Bundle:
    """Graphs for ONNX Runtime and TensorRT. No gates: parity is what the benchmark measures."""
    folder, config, entries = work.folder / f"files-{precision}", model.config, []
    for family in ("onnx", "trt"):
        form = attention_form(family, precision)
        entry = GraphEntry(family, precision, f"{family}/encoder.onnx", f"{family}/decoder.onnx")
        encoder = to_precision(EncoderGraph(model, form), precision)
        export_encoder(encoder, slice_size, folder / entry.encoder)
        decoder = to_precision(DecoderGraph(model, slice_size), precision)
        export_decoder(decoder, config, folder / entry.decoder)
        entries.append(entry)
    manifest = manifest_of(config, slice_size, WindowRule("fixed", *WINDOW), entries)
    return write_bundle(folder, manifest, work.bundle(precision))
