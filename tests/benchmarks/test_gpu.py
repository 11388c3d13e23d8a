"""The GPU benchmark's options, and the bundles it measures; its rows need a GPU."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import create_autospec

import gpu
import gpu_prepare
import gpu_work
import pytest

from samihs_runtime.bundle import Bundle, GraphEntry
from samihs_runtime.errors import ExportError


@pytest.mark.parametrize("given", ["--adapters", "--base"])
def test_adapters_and_base_belong_together(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu._options([given, "a.safetensors"])
    assert "give both, or neither" in capsys.readouterr().err
    assert gpu._options([]).adapters is None
    both = gpu._options(["--adapters", "a.safetensors", "--base", "b.safetensors"])
    assert both.base == Path("b.safetensors")


def test_bundles_are_the_exporters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime's graphs once in fp32, TensorRT's at each precision; engines where possible."""
    asked = []

    def write_graphs(
        folder: Path, merged: object, family: str, precision: str, *_: object
    ) -> GraphEntry:
        asked.append((family, precision))
        entry = GraphEntry(family, precision, f"{family}/encoder.onnx", f"{family}/decoder.onnx")
        for name in (entry.encoder, entry.decoder):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"a graph")
        return entry

    refuse = create_autospec(gpu_prepare.build_engines, side_effect=ExportError("no builder"))
    monkeypatch.setattr(gpu_prepare, "write_graphs", write_graphs)
    monkeypatch.setattr(gpu_prepare, "build_engines", refuse)
    monkeypatch.setattr(gpu_prepare, "SLICES", 4)
    work = gpu_work.Work(tmp_path)
    model = gpu_prepare.load_model("tiny", None, None)
    refused = gpu_prepare.prepare(
        work, model, ("fp16", "bf16"), slice_size=128, device="cuda", brief=True, say=str
    )
    assert asked == [("onnx", "fp32"), ("trt", "fp16"), ("trt", "bf16")]
    assert refused == {"fp16": "no builder", "bf16": "no builder"}
    graphs = Bundle.open(work.bundle("bf16")).manifest.graphs
    assert [(each.family, each.precision) for each in graphs] == [("onnx", "fp32"), ("trt", "bf16")]


def test_memory_is_what_a_row_adds_to_that_of_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_work, "device_memory_mb", lambda: 700.0)
    assert gpu_work.memory_taken_mb(300.0) == 400.0
    assert gpu_work.memory_taken_mb(None) is None
    monkeypatch.setattr(gpu_work, "device_memory_mb", lambda: None)
    assert gpu_work.memory_taken_mb(300.0) is None


def test_only_rows_of_16_bits_are_compared_with_the_16_bit_rate() -> None:
    rows = {"eager fp32": {"encode_flop": 3.0, "encoder_weights": 5}, "autocast bf16": {}}
    rows |= {"tensorrt fp16": {}, "cuda-graph fp32": {}}
    work = gpu._work(rows, 2)
    assert list(work["encode, batch 4"]) == ["torch autocast bf16", "tensorrt fp16"]
    expected = {"flop": 12.0, "bytes": 74, "type": "bf16"}
    assert work["encode, batch 4"]["tensorrt fp16"] == expected
    assert gpu._work({"eager fp32": {}}, 2) == {}
