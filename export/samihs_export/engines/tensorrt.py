"""TensorRT engines from a bundle's graphs: one builder for ``tensorrt_rtx`` and ``tensorrt``.

Needs no torch, and for TensorRT-RTX no GPU: engines are built for the requested compute
capabilities. Networks are strongly typed: the graph determines the precision. Each engine gets a
sidecar, by which the runtime decides whether to load it (``samihs_runtime.backends.sidecar``).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from samihs_export.engines.build_log import build_log
from samihs_export.engines.build_options import BuildOptions, ProfileSizes
from samihs_export.engines.readback import attention_layers, check_layers, layer_kinds, layers_of
from samihs_export.engines.refit import mark_refittable, refittable
from samihs_export.float_types import FLOATS
from samihs_runtime.atomic_file import atomic_path
from samihs_runtime.backends.contract import DECODER, ENCODER, GraphContract, tensor_shapes
from samihs_runtime.backends.probe import probe_gpus
from samihs_runtime.backends.sidecar import EngineSidecar, Shape
from samihs_runtime.backends.tensorrt_engines import import_flavour
from samihs_runtime.bundle import Bundle
from samihs_runtime.bundle.graph_identity import graph_sha256
from samihs_runtime.bundle.manifest import Manifest
from samihs_runtime.environment import INSTALL, RTX_CAPABILITIES
from samihs_runtime.errors import BackendError, ExportError, OutputError

TARGETS = {f"sm{each.replace('.', '')}": each for each in RTX_CAPABILITIES}
"""Target -> compute capability that TensorRT-RTX builds for, such as ``sm89``: ``8.9``."""
RECORDS = "builds"
"""Folder beside the engines: a JSON file for each build, with what was read back from its network.
"""


@dataclass(frozen=True)
class BuiltEngine:
    """An engine that was written, and figures of its build."""

    path: Path
    sidecar: EngineSidecar
    bytes: int
    build_seconds: float
    layer_kinds: Mapping[str, int]
    """Layers of the parsed network, by kind and type."""
    attention_layers: int
    """Number of TensorRT's own attention layers among them."""
    activation_bytes: int | None
    """Device memory for activations at the profile's largest shapes; None if not reported."""


def choose_flavour(flavour: str = "auto", targets: Sequence[str | None] = ()) -> tuple[str, Any]:
    """The TensorRT module to build with.

    ``auto``: TensorRT-RTX first, since it needs no GPU; last if a target is this machine's GPU and
    TensorRT-RTX engines do not run on it.

    Raises:
        ExportError: none is installed, or not the requested one.
    """
    wanted = ("tensorrt_rtx", "tensorrt") if flavour == "auto" else (flavour,)
    if None in targets and not _served_by_rtx(probe_gpus().devices[0].compute_capability):
        wanted = wanted[::-1]
    reasons = []
    for name in wanted:
        if name not in INSTALL:
            raise ExportError(f"no TensorRT flavour {name!r}: there are {', '.join(INSTALL)}")
        try:
            return name, import_flavour(name)
        except BackendError as error:
            reasons.append(str(error))
    raise ExportError(f"no TensorRT builder is installed: {'; '.join(reasons)}")


def parse_targets(text: str | None) -> tuple[str | None, ...]:
    """``sm89,sm120`` as names; without a text, (None,) for this machine's GPU.

    Raises:
        ExportError: an unknown target, or no target is named and there is no GPU.
    """
    if text is None:
        gpus = probe_gpus()
        if not gpus.devices:
            raise ExportError(
                f"no GPU to build for ({gpus.reason}): name targets, --target "
                f"{','.join(('sm80', 'sm89', 'sm120'))}"
            )
        return (None,)
    names = tuple(dict.fromkeys(part.strip().lower() for part in text.split(",")))
    for name in names:
        if name not in TARGETS:
            raise ExportError(f"unknown target {name!r}: there are {', '.join(TARGETS)}")
    return names


def build_engines(
    bundle: Bundle,
    out: Path,
    targets: Sequence[str | None],
    *,
    precision: str | None = None,
    flavour: str = "auto",
    options: BuildOptions | None = None,
    progress: Callable[[BuiltEngine], None] = lambda built: None,
) -> list[BuiltEngine]:
    """Build encoder and decoder for every target, written to ``out`` with their sidecars.

    Args:
        bundle: an opened bundle with ``trt`` graphs.
        out: folder for the engines; the runtime looks in ``bundle.engines``.
        targets: names of :data:`TARGETS`, or None for this machine's GPU.
        precision: which of the bundle's ``trt`` graphs; the first if None.
        flavour: ``auto``, ``tensorrt_rtx`` or ``tensorrt``.
        options: profile sizes, timing cache, compatibility.
        progress: called after each engine.

    Raises:
        ExportError: no builder, a target it does not know, a graph it rejects, or a network that
            does not have the requested precision (``readback``).
        BundleError: the bundle holds no such graphs.
        OutputError: ``out`` cannot be written.
    """
    name, trt = choose_flavour(flavour, targets)
    options = options or BuildOptions()
    graph = bundle.graph("trt", precision)
    built = []
    for target in targets:
        for contract, path in ((ENCODER, graph.encoder), (DECODER, graph.decoder)):
            source = graph_sha256(bundle.manifest, path.relative_to(bundle.root).as_posix())
            job = _Job(trt, name, contract, path, source, graph.precision, target, options)
            profile = _profile(contract, bundle.manifest, options.sizes)
            engine = _build(job, profile, out)
            progress(engine)
            built.append(engine)
    return built


@dataclass(frozen=True)
class _Job:
    trt: Any
    flavour: str
    contract: GraphContract
    onnx: Path
    onnx_sha256: str
    precision: str
    target: str | None
    options: BuildOptions

    @property
    def compute_capability(self) -> str:
        if self.target is not None:
            return TARGETS[self.target]
        return probe_gpus().devices[0].compute_capability

    @property
    def stem(self) -> str:
        """File name without suffix, such as ``encoder.fp16.tensorrt_rtx.sm89``."""
        target = "sm" + self.compute_capability.replace(".", "")
        return f"{self.contract.part}.{self.precision}.{self.flavour}.{target}"


def _build(job: _Job, profile: Mapping[str, tuple[Shape, Shape, Shape]], out: Path) -> BuiltEngine:
    log = build_log(job.trt)
    builder = job.trt.Builder(log)
    network = _parse(job, builder, log)
    layers = layers_of(network)
    check_layers(layers, job.precision, str(job.onnx))
    if job.options.refittable:
        _mark(job, network)
    config = builder.create_builder_config()
    _set_target(job, config)
    _set_always(job.trt, config)
    job.options.apply(job.trt, config)
    _add_profile(builder, config, profile)
    started = time.perf_counter()
    plan = builder.build_serialized_network(network, config)
    seconds = time.perf_counter() - started
    if plan is None:
        needs = "; refittable engines are built on a machine with a GPU" * job.options.refittable
        raise ExportError(f"{job.flavour} built no {job.stem}: {log.last_error()}{needs}")
    sidecar = _sidecar(job, memoryview(plan), profile, seconds)
    path = _write(out / f"{job.stem}.engine", memoryview(plan), sidecar)
    job.options.keep_timings(config)
    built = BuiltEngine(
        path=path,
        sidecar=sidecar,
        bytes=path.stat().st_size,
        build_seconds=seconds,
        layer_kinds=layer_kinds(layers),
        attention_layers=attention_layers(layers),
        activation_bytes=log.activation_bytes,
    )
    _record(job, out, built)
    return built


def _set_always(trt: Any, config: Any) -> None:
    """Set what every build needs: float32 that is float32, and work that a CUDA graph can capture.

    TensorRT takes TF32 for float32 products unless told otherwise; its mantissa is as short as
    float16's, and what a graph keeps in float32 (``graphs.precision``) needs more. TensorRT-RTX may
    otherwise allocate memory during a run, which cannot be captured.
    """
    config.clear_flag(trt.BuilderFlag.TF32)
    if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):  # of TensorRT-RTX alone
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)


def _add_profile(
    builder: Any, config: Any, profile: Mapping[str, tuple[Shape, Shape, Shape]]
) -> None:
    shapes = builder.create_optimization_profile()
    for name, (least, best, most) in profile.items():
        shapes.set_shape(name, least, best, most)
    config.add_optimization_profile(shapes)


def _mark(job: _Job, network: Any) -> None:
    """Mark what adapters change as refittable; TensorRT may fuse all other weights as constants."""
    names = refittable(onnx.load(job.onnx, load_external_data=False).graph)
    if job.precision not in FLOATS or not names:
        raise ExportError(
            f"{job.onnx}: no {job.precision} weights of it can be exchanged: leave --refittable "
            "out, or name a float graph with --precision"
        )
    mark_refittable(network, names)


def _sidecar(
    job: _Job, plan: memoryview, profile: Mapping[str, tuple[Shape, Shape, Shape]], seconds: float
) -> EngineSidecar:
    return EngineSidecar(
        part=job.contract.part,
        engine_sha256=hashlib.sha256(plan).hexdigest(),
        onnx_sha256=job.onnx_sha256,
        flavour=job.flavour,
        version=str(job.trt.__version__),
        compute_capability=(job.compute_capability,),
        precision=job.precision,
        profiles=(dict(profile),),
        flags=tuple(job.options.flags()),
        build_seconds=round(seconds, 2),
    )


def _record(job: _Job, out: Path, built: BuiltEngine) -> None:
    """Record details of a build that the runtime does not need, for later inspection."""
    path = out / RECORDS / f"{job.stem}.json"
    record = {
        "flags": job.options.flags(),
        "build_seconds": round(built.build_seconds, 2),
        "activation_bytes": built.activation_bytes,
        "layers": built.layer_kinds,
    }
    try:
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write the build's record {path}: {error.strerror}") from error


def _parse(job: _Job, builder: Any, log: Any) -> Any:
    flag = 1 << int(job.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flag)
    parser = job.trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(job.onnx)):
        reasons = [str(parser.get_error(i).desc()) for i in range(parser.num_errors)]
        raise ExportError(f"{job.flavour} cannot parse {job.onnx}: {'; '.join(reasons)}")
    return network


def _set_target(job: _Job, config: Any) -> None:
    if job.target is None:
        _require_served(job)
        return  # the builder's default: the GPU at hand
    if not hasattr(config, "set_compute_capability"):
        here = probe_gpus().devices
        if not here or here[0].compute_capability != TARGETS[job.target]:
            raise ExportError(
                f"{job.flavour} builds only for the GPU of this machine, not for {job.target}: "
                "build there, or use --flavour tensorrt_rtx"
            )
        return
    known = job.trt.ComputeCapability.__members__
    if job.target.upper() not in known:
        names = ", ".join(name.lower() for name in known if name.startswith("SM"))
        raise ExportError(f"{job.flavour} knows no target {job.target}: it has {names}")
    config.num_compute_capabilities = 1
    config.set_compute_capability(known[job.target.upper()], 0)


def _require_served(job: _Job) -> None:
    """Refuse a GPU on which TensorRT-RTX builds engines but does not run them (seen on an H200)."""
    if job.flavour == "tensorrt_rtx" and not _served_by_rtx(job.compute_capability):
        raise ExportError(
            f"{job.flavour} runs no engine on this GPU, of compute capability "
            f"{job.compute_capability}, but on {', '.join(RTX_CAPABILITIES)}: name a target of "
            f"another machine, {INSTALL['tensorrt']}, or use --backend cuda"
        )


def _served_by_rtx(compute_capability: str) -> bool:
    return compute_capability in RTX_CAPABILITIES


def _profile(
    contract: GraphContract, manifest: Manifest, sizes: ProfileSizes
) -> dict[str, tuple[Shape, Shape, Shape]]:
    batch = sizes.encode_batch if contract is ENCODER else sizes.decode_batch
    low, best, high = (
        tensor_shapes(manifest, b, n) for b, n in zip(batch, sizes.points, strict=True)
    )
    return {name: (low[name], best[name], high[name]) for name in contract.inputs}


def _write(path: Path, content: memoryview, sidecar: EngineSidecar) -> Path:
    """Write an engine and its sidecar, neither of which ever exists in part.

    An older pair stays intact until both are on disk. Between the two renames, the runtime refuses
    the old engine, because its hash does not match the new sidecar.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as partial:
            partial.write_bytes(content)
            sidecar.write(path.with_suffix(".json"))
    except OSError as error:
        raise OutputError(
            f"cannot write the engine {path} and its sidecar: {error.strerror}; name another "
            "folder with --out"
        ) from error
    return path
