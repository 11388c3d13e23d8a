"""Bundles: what is refused before anything is loaded, and writing that never half-writes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from samihs_runtime.bundle import Bundle, Manifest, opened, shipped_bundle, write_bundle, writing
from samihs_runtime.bundle.onnx_file import external_locations
from samihs_runtime.errors import BundleError, OutputError
from samihs_runtime.folder_lock import held_alone
from samihs_runtime.precisions import FASTEST_FIRST, PRECISIONS
from tests.runtime.tiny_model import manifest, write_tiny_bundle


def edit(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = bundle / "manifest.json"
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


def test_the_command_loads_nothing_of_bundles() -> None:
    code = "import sys, samihs_runtime.cli; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not [each for each in done.stdout.split() if each.startswith("samihs_runtime.bundle")]


def test_every_precision_has_a_rank() -> None:
    assert sorted(FASTEST_FIRST) == sorted(PRECISIONS)


def test_opens_and_names_its_graphs(tiny_bundle: Path) -> None:
    opened = Bundle.open(tiny_bundle)
    files = opened.graph("onnx")
    assert files.encoder == tiny_bundle / "onnx/encoder.onnx"
    assert files.precision == "fp32"
    assert opened.graph("onnx", "fp32") == files
    assert len(opened.id) == 64
    with pytest.raises(BundleError, match=r"no trt fp16 graphs, only onnx fp32"):
        opened.graph("trt", "fp16")


def test_manifest_survives_a_round_trip(tiny_bundle: Path) -> None:
    opened = Bundle.open(tiny_bundle).manifest
    assert Manifest.from_json(opened.to_json()) == opened


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw.update(schema=2), "schema is 2, expected 1, .*; install the version"),
        (lambda raw: raw.pop("grid"), "missing grid"),
        (lambda raw: raw.update(surprise=1), "unknown surprise; install the version"),
        (lambda raw: raw.update(slice_size="512"), "slice_size is '512', expected an integer"),
        (lambda raw: raw.update(slice_size=True), "slice_size is True"),
        (lambda raw: raw.update(grid=0), "grid is 0, expected a positive"),
        (lambda raw: raw.update(clinical_use=0), "clinical_use is 0, expected true or false"),
        (lambda raw: raw.update(score_threshold=float("nan")), "expected a finite number"),
        (lambda raw: raw.update(score_threshold=10**400), "expected a finite number"),
        (lambda raw: raw.update(score_threshold=42), "expected a score from -1 to 2"),
        (lambda raw: raw["window"].update(rule="auto"), "window.rule is 'auto'"),
        (lambda raw: raw["window"].update(low=200), "expected low below high"),
        (lambda raw: raw.update(plausible_hu=[1]), r"expected \[low, high\]"),
        (lambda raw: raw.update(graphs=[]), "expected at least one graph pair"),
        (lambda raw: raw["graphs"].append(raw["graphs"][0]), "each family and precision once"),
        (lambda raw: raw["graphs"][0].update(precision="fp4"), "graphs.precision is 'fp4'"),
        (lambda raw: raw["graphs"][0].update(encoder="e.onnx"), "expected a path in a folder"),
        (lambda raw: raw["files"].popitem(), "not under 'files'|not in the manifest"),
        (
            lambda raw: raw["files"]["onnx/encoder.onnx"].update(sha256="../x"),
            "expected 64 lower-case",
        ),
    ],
)
def test_a_wrong_manifest_is_refused_by_field(
    tiny_bundle: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    edit(tiny_bundle, change)
    with pytest.raises(BundleError, match=message):
        Bundle.open(tiny_bundle)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../outside.onnx", "onnx/../../outside", "C:/x", "a\\b", ""]
)
def test_paths_that_leave_the_folder_are_refused(tiny_bundle: Path, path: str) -> None:
    (tiny_bundle.parent / "outside.onnx").write_bytes(b"x")
    edit(tiny_bundle, lambda raw: raw["files"].update({path: {"sha256": "0" * 64, "bytes": 1}}))
    with pytest.raises(BundleError, match="could leave the bundle's folder"):
        Bundle.open(tiny_bundle)


def with_weights_in(bundle: Path, location: str, weights: Path) -> Manifest:
    """Let the decoder name a file for one of its tensors; the manifest of what is there then."""
    path = bundle / "onnx/decoder.onnx"
    model = onnx.load(path)
    tensor = next(each for each in model.graph.initializer if each.raw_data)
    weights.parent.mkdir(parents=True, exist_ok=True)
    weights.write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    path.write_bytes(model.SerializeToString())
    return manifest()


@pytest.mark.parametrize("location", ["../../outside.bin", "{absolute}", "../other/weights.bin"])
def test_weights_that_were_not_verified_are_refused(
    tiny_bundle: Path, tmp_path: Path, location: str
) -> None:
    """ONNX Runtime before 1.24 reads them from wherever the graph says."""
    location = location.format(absolute=tmp_path / "outside.bin")
    weights = (tiny_bundle / "onnx" / location).resolve()
    described = with_weights_in(tiny_bundle, location, weights)
    with pytest.raises(BundleError, match=r"keeps weights in '.*', which is no listed file beside"):
        write_bundle(tiny_bundle, described, tmp_path / "made")


def test_weights_beside_their_graph_may_be_in_a_file(tiny_bundle: Path, tmp_path: Path) -> None:
    described = with_weights_in(tiny_bundle, "weights.bin", tiny_bundle / "onnx/weights.bin")
    made = write_bundle(tiny_bundle, described, tmp_path / "made")
    assert external_locations(made.graph("onnx").decoder) == {"weights.bin"}
    assert external_locations(made.graph("onnx").encoder) == set()


def test_weights_are_found_wherever_a_graph_may_hold_them(tmp_path: Path) -> None:
    """Within the branches of an If, in a constant node, in a function."""
    tensor = onnx.helper.make_tensor("x", onnx.TensorProto.FLOAT, [1], [0.0])
    tensor.ClearField("float_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "hidden.bin"), ("offset", "0")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    constant = onnx.helper.make_node("Constant", [], ["y"], value=tensor)
    branch = onnx.helper.make_graph([constant], "branch", [], [])
    either = onnx.helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    plain = onnx.helper.make_graph([], "plain", [], [])
    function = onnx.helper.make_function(
        "here", "f", [], ["y"], [constant], [onnx.helper.make_opsetid("", 20)]
    )
    models = {
        "branch": onnx.helper.make_model(onnx.helper.make_graph([either], "whole", [], [])),
        "node": onnx.helper.make_model(branch),
        "function": onnx.helper.make_model(plain, functions=[function]),
    }
    for name, model in models.items():
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(model.SerializeToString())
        assert external_locations(path) == {"hidden.bin"}, name
    (tmp_path / "cut.onnx").write_bytes(models["branch"].SerializeToString()[:-3])
    with pytest.raises(BundleError, match="no valid protobuf"):
        external_locations(tmp_path / "cut.onnx")


def test_a_link_that_leads_out_is_refused(tiny_bundle: Path) -> None:
    inside = tiny_bundle / "onnx/encoder.onnx"
    outside = tiny_bundle.parent / "elsewhere.onnx"
    inside.rename(outside)  # same bytes, so that only the link can be the reason
    inside.symlink_to(outside)
    with pytest.raises(BundleError, match=r"leads out of .* through a symbolic link"):
        Bundle.open(tiny_bundle)


@pytest.mark.parametrize("path", ["onnx/\0", "onnx/\ud800", "onnx/new\nline"])
def test_what_is_no_file_name_is_refused(tiny_bundle: Path, path: str) -> None:
    edit(tiny_bundle, lambda raw: raw["files"].update({path: {"sha256": "0" * 64, "bytes": 1}}))
    with pytest.raises(BundleError, match="has characters that no file name"):
        Bundle.open(tiny_bundle)


def test_a_link_to_itself_is_refused(tiny_bundle: Path) -> None:
    path = tiny_bundle / "onnx/encoder.onnx"
    path.unlink()
    path.symlink_to(path.name)
    with pytest.raises(BundleError, match=r"cannot read .*encoder\.onnx: |is missing"):
        Bundle.open(tiny_bundle)


def test_a_manifest_that_is_no_text_is_refused(tiny_bundle: Path) -> None:
    path = tiny_bundle / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b"tiny", b"t\xffny", 1))
    with pytest.raises(BundleError, match="is no JSON"):
        Bundle.open(tiny_bundle)


def test_one_changed_byte_is_refused(tiny_bundle: Path) -> None:
    path = tiny_bundle / "onnx/decoder.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"onnx/decoder.onnx was changed: its sha256"):
        Bundle.open(tiny_bundle)


def test_truncated_missing_and_stray_files_are_refused(tiny_bundle: Path) -> None:
    path = tiny_bundle / "onnx/decoder.onnx"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(BundleError, match=r"has \d+ bytes, the manifest says"):
        Bundle.open(tiny_bundle)
    path.unlink()
    with pytest.raises(BundleError, match=r"onnx/decoder.onnx is missing"):
        Bundle.open(tiny_bundle)
    path.write_bytes(content)
    (tiny_bundle / "onnx/decoder.onnx.data").write_bytes(b"weights from nowhere")
    with pytest.raises(BundleError, match=r"decoder.onnx.data is not in the manifest"):
        Bundle.open(tiny_bundle)


def test_what_is_no_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no bundle at"):
        Bundle.open(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"holds no manifest\.json"):
        Bundle.open(tmp_path)
    (tmp_path / "manifest.json").write_text("not json")
    with pytest.raises(BundleError, match="is no JSON"):
        Bundle.open(tmp_path)
    (tmp_path / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(BundleError, match="is no JSON"):
        Bundle.open(tmp_path)
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(BundleError, match="expected a JSON object"):
        Bundle.open(tmp_path)


@pytest.mark.parametrize("name", ["", "manifest.json", "onnx/encoder.onnx"])
def test_a_bundle_that_may_not_be_looked_at_is_refused(
    tiny_bundle: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a locked folder: Python before 3.14 raises where it is asked what is there."""

    def locked(ask: Callable[[Path], bool]) -> Callable[[Path], bool]:
        def asked(path: Path) -> bool:
            if path == tiny_bundle / name:
                raise PermissionError(13, "Permission denied", str(path))
            return ask(path)

        return asked

    for method in ("is_dir", "is_file"):
        monkeypatch.setattr(Path, method, locked(getattr(Path, method)))
    with pytest.raises(BundleError, match=r"cannot read .*Permission denied; it must be readable"):
        Bundle.open(tiny_bundle)


def test_engines_are_not_the_manifests(tiny_bundle: Path) -> None:
    before = Bundle.open(tiny_bundle)
    before.engines.mkdir()
    (before.engines / "encoder.engine").write_bytes(b"built later, on the machine that runs it")
    assert Bundle.open(tiny_bundle).id == before.id


def test_writing_replaces_a_bundle_and_nothing_else(tmp_path: Path) -> None:
    destination = tmp_path / "bundle"
    first = write_tiny_bundle(tmp_path / "a", destination)
    second = write_tiny_bundle(tmp_path / "b", destination, version="1")
    assert Bundle.open(destination).manifest.version == "1"
    assert first.id != second.id
    other = tmp_path / "precious"
    other.mkdir()
    (other / "thesis.txt").write_text("years")
    with pytest.raises(OutputError, match="exists and is no bundle"):
        write_tiny_bundle(tmp_path / "c", other)
    assert (other / "thesis.txt").read_text() == "years"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a", "b", "bundle", "c", "precious"]


def test_a_failed_write_leaves_the_old_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    destination = tmp_path / "bundle"
    old = write_tiny_bundle(tmp_path / "a", destination)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(BundleError, match="not under 'files'"):
        write_bundle(empty, manifest(), destination)
    assert Bundle.open(destination).id == old.id

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "_swap", full_disk)
    with pytest.raises(OutputError, match="No space left"):
        write_tiny_bundle(tmp_path / "b", destination, version="1")
    assert Bundle.open(destination).id == old.id
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a", "b", "bundle", "empty"]


def test_what_is_replaced_is_asked_about_last_and_locked(tmp_path: Path) -> None:
    destination = tmp_path / "bundle"
    old = write_tiny_bundle(tmp_path / "a", destination)
    asked: list[Path] = []

    def refuse(target: Path) -> None:
        asked.append(target)
        (fresh,) = tmp_path.glob(".bundle-*/new")
        assert Bundle.open(fresh).manifest.version == "1"  # nothing is left but the renames
        with (
            pytest.raises(OutputError, match="another process changes the bundle"),
            held_alone(target, "changes the bundle"),
        ):
            pass
        raise OutputError("a site was added")

    again = manifest(version="1")
    with pytest.raises(OutputError, match=r"^a site was added$"):
        write_bundle(tmp_path / "a/files", again, destination, may_replace=refuse)
    assert asked == [destination]
    assert Bundle.open(destination).id == old.id
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a", "bundle"]
    write_bundle(tmp_path / "a/files", again, tmp_path / "elsewhere", may_replace=refuse)
    assert asked == [destination]
    write_bundle(tmp_path / "a/files", again, destination, may_replace=asked.append)
    assert Bundle.open(destination).manifest.version == "1"


def fail_renames(monkeypatch: pytest.MonkeyPatch, faults: dict[str, type[BaseException]]) -> None:
    """Renames of what is called so raise."""
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name in faults:
            raise faults[self.name]("broken off")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)


@pytest.mark.parametrize(("fault", "said"), [(OSError, OutputError), (KeyboardInterrupt,) * 2])
def test_the_old_bundle_comes_back_when_the_rename_fails(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: type[BaseException],
    said: type[BaseException],
) -> None:
    destination = tmp_path / "bundle"
    old = write_tiny_bundle(tmp_path / "a", destination)
    fail_renames(monkeypatch, {"new": fault})
    with pytest.raises(said, match="broken off"):
        write_tiny_bundle(tmp_path / "b", destination, version="1")
    assert Bundle.open(destination).id == old.id
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a", "b", "bundle"]


def test_an_old_bundle_that_cannot_come_back_is_kept_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    destination = tmp_path / "bundle"
    old = write_tiny_bundle(tmp_path / "a", destination)
    fail_renames(monkeypatch, {"new": KeyboardInterrupt, "old": OSError})
    with pytest.raises(OutputError, match="the one that was there is now ") as raised:
        write_tiny_bundle(tmp_path / "b", destination, version="1")
    assert Bundle.open(str(raised.value).partition(" is now ")[2]).id == old.id


def test_the_shipped_bundle_is_the_only_one(
    tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opened.resources, "files", lambda package: tmp_path)
    with pytest.raises(BundleError, match="exactly one bundle, found none"):
        shipped_bundle()
    (tmp_path / "bundles").mkdir()
    tiny_bundle.rename(tmp_path / "bundles/tiny")
    assert shipped_bundle() == tmp_path / "bundles/tiny"
