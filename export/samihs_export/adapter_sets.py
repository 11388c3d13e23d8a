"""Adding another site's adapters to a bundle: merged, proven, and only then written.

A set stores the tensors that differ, for each pair of float graphs (8-bit graphs would need ranges
of their own). The gates are those of the bundle's own export, applied to the bundle's own graphs
with these tensors exchanged in the same way as in the runtime.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import onnx
from torch import Tensor

from samihs_export.engines.refit import refittable
from samihs_export.float_types import FLOATS
from samihs_export.graphs.families import graph_pair
from samihs_export.merge import MergeReport, merge
from samihs_export.metadata import BundleMetadata
from samihs_export.pipeline import NOTHING_WRITTEN, ExportOptions
from samihs_export.proof.cases import phantom_cases, save_reference
from samihs_export.proof.export_proof import Proof
from samihs_export.proof.parity import ParityResult, advised
from samihs_export.verify import REFERENCE
from samihs_runtime.backends.exchange import exchanged_graph, of_part
from samihs_runtime.bundle import ADAPTERS, AdapterSet, Bundle, GraphEntry, Manifest
from samihs_runtime.bundle.entries import AdapterTensors, check_set_name
from samihs_runtime.bundle.graph_identity import files_beside
from samihs_runtime.bundle.sets import add_set
from samihs_runtime.bundle.tensor_file import read_tensors
from samihs_runtime.errors import BundleError, ExportError, OutputError
from samihs_training.checkpoints.checkpoint import LoadedAdapters
from samihs_training.checkpoints.tensorfile import write_safetensors
from samihs_training.methods import count_by_part
from samihs_training.network.model import SamihsModel

_OF_ITS_OWN = "export a bundle of its own"
_EXCHANGED_SITES = ("attn", "mlp", "attn.qkv", "mlp.lin1")
"""Merged layers whose tensors a set holds."""


@advised(NOTHING_WRITTEN)
def add_adapters(
    bundle: Bundle,
    loaded: LoadedAdapters,
    about: BundleMetadata,
    *,
    replace: bool = False,
    options: ExportOptions | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> Bundle:
    """Merge a site's adapters, prove them in the bundle's graphs, and add them as a set.

    Args:
        bundle: an opened bundle; its graphs, engines and own adapters are not changed.
        loaded: the site's model with its adapters in place, on the bundle's base, and their method.
        about: name, window, training data and threshold of the set; ``provenance`` holds
            ``base_sha256``.
        replace: whether to replace a set of the same name.
        options: numbers of slices for the gates and for ``verify``; the rest is the bundle's.
        progress: called with the name of each step as it begins.

    Raises:
        ExportError: another base or preset, a name in use, graphs with external weights, or a
            method that changes more layers than a set holds.
        ParityError: a gate failed. In every case the bundle is unchanged.
        BundleError: the bundle was exported again in the meantime, or has got a set of that name.
        OutputError: the bundle cannot be written, or another process is changing it.
    """
    options = options or ExportOptions()
    _check(bundle, loaded, about, replace)
    _check_method(loaded)
    model = loaded.model.mirrored() if bundle.manifest.mirrored else loaded.model
    progress("merging adapters")
    merged, report = merge(model)
    _check_merged(report)
    manifest = bundle.manifest
    sizes = {"slice_size": manifest.slice_size, "mask_size": manifest.mask_size}
    cases = phantom_cases(options.parity_slices, window=about.window, **sizes)
    progress("asking torch, adapted and merged")
    proof = Proof.of(model, cases, trained=bool(manifest.parity.get("masks_judged", True)))
    results = [proof.prove_merge(merged)]
    folder = f"{ADAPTERS}/{about.name}/{bundle.id[:8]}"
    files: dict[str, Path] = {}
    try:
        with tempfile.TemporaryDirectory(prefix="samihs-adapters-") as name:
            scratch = Path(name)
            for entry in _float_graphs(manifest):
                progress(f"proving {entry.family} {entry.precision}")
                path = scratch / _file_name(entry)
                write_safetensors(path, _tensors(bundle, entry, merged), {"adapters": about.name})
                results.append(_prove(bundle, entry, path, proof, merged))
                files[f"{folder}/{path.name}"] = path
            progress("writing the set")
            files[f"{folder}/{REFERENCE}"] = scratch / REFERENCE
            kept = slice(options.reference_slices)
            save_reference(scratch / REFERENCE, cases[kept], proof.reference[kept])
            made = _described(manifest, about, folder, report, proof, results)
            return add_set(bundle, made, files, replace=replace)
    except OSError as error:
        raise OutputError(f"the adapters could not be written: {error}") from error


def _described(
    manifest: Manifest,
    about: BundleMetadata,
    folder: str,
    report: MergeReport,
    proof: Proof,
    results: Sequence[ParityResult],
) -> AdapterSet:
    """The set as the manifest lists it."""
    return AdapterSet(
        name=about.name,
        base_sha256=str(about.provenance["base_sha256"]),
        training_data=about.training_data,
        window=about.window,
        score_threshold=about.score_threshold,
        tensors=tuple(
            AdapterTensors(entry.family, entry.precision, f"{folder}/{_file_name(entry)}")
            for entry in _float_graphs(manifest)
        ),
        reference=f"{folder}/{REFERENCE}",
        method=dict(about.method),
        merge=report.summary(),
        parity={
            "masks_judged": proof.own is None,
            **({"float32_own_error": asdict(proof.own)} if proof.own else {}),
            "results": [result.summary() for result in results],
        },
        accuracy=dict(about.accuracy),
        provenance=dict(about.provenance),
    )


def _file_name(entry: GraphEntry) -> str:
    return f"{entry.family}.{entry.precision}.safetensors"


def _check(bundle: Bundle, loaded: LoadedAdapters, about: BundleMetadata, replace: bool) -> None:
    manifest, config = bundle.manifest, loaded.model.config
    check_set_name(about.name)
    if not replace and about.name in [each.name for each in manifest.adapter_sets]:
        raise ExportError(
            f"bundle {bundle.root} has adapters {about.name} already: give another --name, or "
            "--replace"
        )
    base, given = manifest.provenance.get("base_sha256"), about.provenance["base_sha256"]
    if base != given:
        raise ExportError(
            f"bundle {bundle.root} was made on a base with sha256 {str(base)[:12]}, the adapters "
            f"on {str(given)[:12]}: sets share the bundle's base"
        )
    ours = (manifest.preset, manifest.image_size, manifest.grid, manifest.mask_size)
    theirs = (config.name, config.image_size, config.grid, config.mask_size)
    if ours != theirs:
        raise ExportError(
            f"bundle {bundle.root} holds {ours[0]} at {ours[1]} pixels, the adapters are for "
            f"{theirs[0]} at {theirs[1]}: train them with the bundle's frame"
        )
    if manifest.slice_size != loaded.slice_size:
        raise ExportError(
            f"bundle {bundle.root} takes slices of {manifest.slice_size} pixels, the adapters were "
            f"trained on {loaded.slice_size} (size in [data]): train them with the bundle's size, "
            f"or {_OF_ITS_OWN}"
        )
    for entry in _float_graphs(manifest):
        for graph in (entry.encoder, entry.decoder):
            if beside := files_beside(manifest, graph):
                raise ExportError(
                    f"{bundle.root / graph} keeps its weights beside it ({', '.join(beside)}), "
                    f"where none can be exchanged: {_OF_ITS_OWN}"
                )


def _check_method(loaded: LoadedAdapters) -> None:
    """Refuse methods that are not merged, or train SAM's own encoder, which no merge shows."""
    method, sam = loaded.method, loaded.model.sam
    if not method.merges or "image_encoder" in count_by_part(sam, method.trained(sam)):
        raise _changes_more(f"method {method.name} changes more than the layers it is merged into")


def _check_merged(report: MergeReport) -> None:
    other = [f"{e.block}.{e.site}" for e in report.layers if e.site not in _EXCHANGED_SITES]
    other += report.kept
    if other:
        raise _changes_more(f"the adapters change {', '.join(other[:3])}")


def _changes_more(what: str) -> ExportError:
    return ExportError(
        f"{what}: a set holds attention.qkv, mlp.lin1 and the decoder only; {_OF_ITS_OWN}"
    )


def _float_graphs(manifest: Manifest) -> Iterator[GraphEntry]:
    for entry in manifest.graphs:
        if entry.precision in FLOATS:
            yield entry


def _tensors(bundle: Bundle, entry: GraphEntry, merged: SamihsModel) -> dict[str, Tensor]:
    """The merged model's values of the refittable tensors in one graph pair of the bundle."""
    precision, slice_size = entry.precision, bundle.manifest.slice_size
    pair = graph_pair(merged, entry.family, precision, slice_size)  # type: ignore[arg-type]
    tensors: dict[str, Tensor] = {}
    for part, graph in zip(("encoder", "decoder"), pair, strict=True):
        path = bundle.root / getattr(entry, part)
        names = refittable(onnx.load(path, load_external_data=False).graph)
        state = graph.state_dict()
        wanted = [name for name, _ in graph.named_parameters()] if part == "decoder" else []
        missing = sorted({*names} - state.keys() | {*wanted} - {*names})
        if missing or not names:
            raise ExportError(
                f"{path}: {', '.join(missing[:3]) or 'its weights'} cannot be exchanged by name: "
                "export the bundle again"
            )
        tensors |= {f"{part}/{name}": state[name] for name in names}
    return tensors


def _prove(
    bundle: Bundle, entry: GraphEntry, path: Path, proof: Proof, merged: SamihsModel
) -> ParityResult:
    """Apply the gates to the bundle's graphs with the set's tensors in place."""
    tensors = read_tensors(path)
    with tempfile.TemporaryDirectory(prefix="samihs-exchanged-") as folder:
        for part in ("encoder", "decoder"):
            name = getattr(entry, part)
            out = Path(folder) / name
            out.parent.mkdir(parents=True, exist_ok=True)
            try:
                out.write_bytes(exchanged_graph(bundle.root / name, of_part(tensors, part)))
            except BundleError as error:
                raise ExportError(str(error)) from error
        return proof.prove_graph(Path(folder), entry, merged)
