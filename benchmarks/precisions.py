"""What a backend or precision costs in accuracy, with the same weights, clicks and ground truth.

    python benchmarks/precisions.py [--checkpoint ADAPTERS --base BASE] [--studies 20]
        [--precisions fp16,bf16,int8]

The reference is the torch model with its adapters in place. The graphs are exported from it as for
a bundle (``samihs_export.graphs.families``)::

    subject                       what answers
    torch fp32, adapted           the reference
    CPU backend, onnx ...         the runtime, as in samihs-infer
    ONNX Runtime CPU, trt ...     the graphs made for TensorRT, without TensorRT
    torch CPU, trt bf16           the same; ONNX Runtime has no bfloat16 kernels on the CPU
    cuda, tensorrt ...            the runtime on a GPU, if there is one

Phantom studies of unseen seeds, with one click on the deepest point of each lesion of a slice.
Dice, HD95 and volume error of each click; the report takes differences from the reference click by
click.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accuracy import Tally, judge
from numpy.typing import NDArray
from record import Record, command_line
from torch import Tensor
from trial_bundle import manifest_of

from samihs_export.float_types import Precision, read_precisions
from samihs_export.graphs.calibration import calibrate, calibration_cases
from samihs_export.graphs.families import families, graph_pair, write_graphs
from samihs_export.graphs.quantization import Range
from samihs_export.merge import merge
from samihs_export.proof.parity import NOT_IN_ONNX_RUNTIME
from samihs_runtime.backends.onnx_runtime import EXACT_INT8, import_onnxruntime
from samihs_runtime.backends.probe import probe_gpus
from samihs_runtime.bundle import GraphEntry, WindowRule, write_bundle
from samihs_runtime.clicked_parts import clicked_parts
from samihs_runtime.encoding.preprocessing import window_of
from samihs_runtime.errors import SamihsError, UsageError
from samihs_runtime.segmentation import FOREGROUND, Prompt
from samihs_training.checkpoints.checkpoint import load_adapters
from samihs_training.data.clicks import Mask
from samihs_training.data.phantom import PhantomOptions
from samihs_training.data.studies import StudySpec, study_slices
from samihs_training.evaluation.predictors import (
    Clicks,
    Predictor,
    bundle_predictor,
    checkpoint_predictor,
)
from samihs_training.network.model import SamihsModel

MODELS = Path(__file__).parents[1] / "models" / "vit_mini"
ADAPTERS, BASE = MODELS / "adapters.safetensors", MODELS / "base.safetensors"
PRECISIONS: tuple[Precision, ...] = ("fp16", "bf16", "int8")
REFERENCE = "torch fp32, adapted"
SIZE = PhantomOptions().matrix
CALIBRATION_SLICES = 16
"""The default of ``samihs-export``."""
Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Graphs:
    """An encoder and a decoder, independent of what runs them."""

    encode: Callable[[Array, Array], Any]
    """``hu`` [1, 1, S, S], ``window`` [1, 2] -> embedding [1, E, G, G]."""
    decode: Callable[[Any, Array, NDArray[np.int32]], tuple[Mask, float]]
    """Embedding, ``points`` [1, N, 2], ``labels`` [1, N] -> mask [S, S] and score."""


def measure(
    adapters: Path = ADAPTERS,
    base: Path = BASE,
    studies: int = 20,
    precisions: tuple[Precision, ...] = PRECISIONS,
) -> Record:
    """Dice, HD95 and volume error of every backend and precision at every click."""
    loaded = load_adapters(adapters, base)
    merged, _ = merge(loaded.model)
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="samihs-precisions-") as scratch, ExitStack() as stack:
        folder = Path(scratch) / "files"
        entries = list(_written(folder, merged, loaded.window, precisions))
        served, refused = _served(Path(scratch), entries, merged, loaded.window, stack)
        torchs_own = stack.enter_context(checkpoint_predictor(adapters, base))
        predictors = {REFERENCE: torchs_own, **served}
        for each in study_slices(StudySpec(studies), workers=2):
            judge(each, predictors, tally)
    settings = {
        "studies": studies,
        "click": "deepest",
        "preset": merged.config.name,
        "calibration_slices": CALIBRATION_SLICES,
    }
    return Record("precisions", tally.series(), settings, refused, weights=torchs_own.weights)


def _written(
    folder: Path, merged: SamihsModel, window: WindowRule, precisions: tuple[Precision, ...]
) -> Iterator[GraphEntry]:
    """The graphs of every family and precision, below ``folder``."""

    @cache
    def ranges() -> Mapping[str, Range]:
        cases = calibration_cases(CALIBRATION_SLICES, slice_size=SIZE, window=window)
        return calibrate(folder / "onnx" / "encoder.onnx", cases)

    for family, precision in families(precisions):
        print(f"exporting {family} {precision}", file=sys.stderr, flush=True)
        yield write_graphs(folder, merged, family, precision, SIZE, ranges)


def _served(
    scratch: Path,
    entries: Sequence[GraphEntry],
    merged: SamihsModel,
    window: WindowRule,
    stack: ExitStack,
) -> tuple[dict[str, Predictor], dict[str, str]]:
    """Subject -> its predictor, and subject -> why it cannot be measured."""
    served: dict[str, Predictor] = {}
    refused: dict[str, str] = {}

    def through_runtime(backend: str, entry: GraphEntry) -> None:
        name = f"{'CPU' if backend == 'cpu' else backend} backend, {entry.family} {entry.precision}"
        manifest = manifest_of(merged.config, SIZE, window, _with_onnx(entry, entries))
        bundle = scratch / f"{backend}-{entry.family}-{entry.precision}"
        write_bundle(scratch / "files", manifest, bundle)
        try:
            served[name] = stack.enter_context(bundle_predictor(bundle, backend))
        except SamihsError as error:
            refused[name] = str(error)

    gpus = probe_gpus()
    for entry in entries:
        if entry.family == "onnx":
            through_runtime("cpu", entry)
        else:
            name, graphs = _beside_tensorrt(scratch / "files", entry, merged)
            served[name] = predictor_of(name, graphs, window)
        if gpus.devices:
            through_runtime("cuda" if entry.family == "onnx" else "tensorrt", entry)
    if not gpus.devices:
        refused["cuda and tensorrt backends"] = gpus.reason
    return served, refused


def _with_onnx(entry: GraphEntry, entries: Sequence[GraphEntry]) -> tuple[GraphEntry, ...]:
    """The entry, preceded by the onnx pair that every bundle holds."""
    return (entry,) if entry.family == "onnx" else (entries[0], entry)


def _beside_tensorrt(folder: Path, entry: GraphEntry, merged: SamihsModel) -> tuple[str, Graphs]:
    """Name and graphs of the substitute for a pair that TensorRT would run."""
    if entry.precision in NOT_IN_ONNX_RUNTIME:
        return f"torch CPU, trt {entry.precision}", torch_graphs(merged, "trt", "bf16")
    graphs = onnx_graphs(folder / entry.encoder, folder / entry.decoder)
    return f"ONNX Runtime CPU, trt {entry.precision}", graphs


def predictor_of(name: str, graphs: Graphs, window: WindowRule) -> Predictor:
    """A predictor that answers clicks on slices [S, S] like the runtime: with the clicked parts of
    the mask.

    Its answers raise:
        UsageError: a slice of another size than that of the graphs.
    """

    def answer(hu: NDArray[np.int16], clicks: Clicks) -> list[tuple[Mask, float]]:
        if hu.shape != (SIZE, SIZE):
            raise UsageError(f"a slice of {hu.shape} pixels: these graphs take {SIZE} x {SIZE}")
        stored = hu.astype(np.float32)
        low_high = np.asarray([window_of(stored, window)], np.float32)
        embedding = graphs.encode(stored[None, None], low_high)
        answers = []
        for click in clicks:
            prompt = Prompt((click,), (FOREGROUND,))
            points, labels = prompt.arrays()
            mask, score = graphs.decode(embedding, points[None], labels[None])
            answers.append((clicked_parts(mask, prompt), score))
        return answers

    return Predictor(name, answer, None)


def onnx_graphs(encoder: Path, decoder: Path) -> Graphs:
    """Files, run by ONNX Runtime on the CPU."""
    ort = import_onnxruntime("cpu")
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.add_session_config_entry(*EXACT_INT8)
    sessions = [
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for path in (encoder, decoder)
    ]
    side = next(each.shape[-1] for each in sessions[1].get_inputs() if each.name == "prior")

    def encode(hu: Array, window: Array) -> Any:
        return sessions[0].run(["embedding"], {"hu": hu, "window": window})[0]

    def decode(embedding: Any, points: Array, labels: NDArray[np.int32]) -> tuple[Mask, float]:
        feeds = {
            "embedding": embedding,
            "points": points,
            "labels": labels,
            "prior": np.zeros((1, 1, side, side), np.float32),
            "has_prior": np.zeros(1, np.float32),
        }
        mask, score = sessions[1].run(["mask", "score"], feeds)
        return mask[0].astype(bool), float(score[0])

    return Graphs(encode, decode)


def torch_graphs(merged: SamihsModel, family: str, precision: Precision) -> Graphs:
    """The torch graphs that the files of a float precision are written from."""
    encoder, decoder = graph_pair(merged, family, precision, SIZE)
    encoder.eval()
    decoder.eval()
    nothing, no_prior = torch.zeros(1, 1, decoder.mask_size, decoder.mask_size), torch.zeros(1)

    @torch.inference_mode()
    def encode(hu: Array, window: Array) -> Tensor:
        embedding: Tensor = encoder(torch.from_numpy(hu), torch.from_numpy(window))
        return embedding

    @torch.inference_mode()
    def decode(embedding: Tensor, points: Array, labels: NDArray[np.int32]) -> tuple[Mask, float]:
        prompt = torch.from_numpy(points), torch.from_numpy(labels)
        _, mask, score = decoder(embedding, *prompt, nothing, no_prior)
        return mask[0].bool().numpy(), float(score[0])

    return Graphs(encode, decode)


def main() -> None:
    """Measure and write."""
    parser = command_line(__doc__)
    parser.add_argument("--checkpoint", type=Path, default=ADAPTERS)
    parser.add_argument("--base", type=Path, default=BASE)
    parser.add_argument("--studies", type=int, default=20)
    parser.add_argument("--precisions", default=",".join(PRECISIONS), help="of TensorRT's graphs")
    options = parser.parse_args()
    try:
        precisions = read_precisions(options.precisions)
        record = measure(options.checkpoint, options.base, options.studies, precisions)
    except SamihsError as error:
        sys.exit(f"error: {error}")
    print(f"written  {record.write(options.results)}")


if __name__ == "__main__":
    main()
