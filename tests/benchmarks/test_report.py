"""What a benchmark writes, and the report made from it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import record as recording
import report
import scaling_tables
import tables
import targets
from record import Record, Series, command_of, ranked, ratios, read_record
from stopwatch import Budget, interleaved
from weights import UNKNOWN

MACHINE = {
    "processor": "a processor", "cores": 2, "system": "a system", "python": "3.11.7", "gpus": [],
}  # fmt: skip


def result(benchmark: str, *series: Series, date: str = "2026-01-02T03:04:05+00:00") -> Record:
    return Record(
        benchmark,
        series,
        {"rounds": 3, "reference": tables.EAGER},
        {},
        "python x.py",
        date,
        "abc1234",
        MACHINE,
        {"numpy": "2"},
    )


ENCODES = (
    Series("samihs fp32", "encode", "s", (1.0, 2.0, 1.0)),
    Series(tables.EAGER, "encode", "s", (2.5, 5.2, 2.4)),
)


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = result("peers-vit_b", *ENCODES)
    path = written.write(tmp_path)
    assert path.name == "peers-vit_b-cpu-2026-01-02.json"
    assert read_record(path) == written
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_among_equals_the_newest_of_this_schema_comes_first(tmp_path: Path) -> None:
    older = result("cost", date="2026-01-02T03:04:05+00:00")
    newer = result("cost", date="2026-01-03T03:04:05+00:00")
    for each in (older, newer):
        each.write(tmp_path)
    (tmp_path / "cost-cpu-2026-02-01.json").write_text(json.dumps({"benchmark": "cost"}))
    assert ranked(tmp_path.glob("*.json")) == {"cost-cpu": [newer, older]}


def test_a_smaller_run_neither_replaces_a_fuller_one_nor_is_preferred(tmp_path: Path) -> None:
    results = tmp_path / "results"
    full = result("peers-vit_b", *ENCODES)
    smaller = result("peers-vit_b", ENCODES[0], date="2026-01-02T23:04:05+00:00")
    path = full.write(results)
    assert smaller.write(results).name == "peers-vit_b-cpu-2026-01-02-3-samples.json"
    assert read_record(path) == full
    assert ranked(results.glob("*.json")) == {"peers-vit_b-cpu": [full, smaller]}
    text = report.write(results, tmp_path).read_text()
    assert f"| {tables.EAGER} | 2500 (" in text
    assert "Newer but smaller, not shown: `python x.py`; 2026-01-02, commit abc1234, 3 " in text
    assert "These are 6." in text
    again = dataclasses.replace(full, date="2026-01-02T23:59:59+00:00")
    assert again.write(results) == path  # equally full: it replaces the first
    assert "not shown" not in report.write(results, tmp_path).read_text()


def test_a_ratio_is_taken_round_by_round() -> None:
    """The second round was slow for both, which does not affect the ratio."""
    found = ratios(ENCODES[0].samples, ENCODES[1].samples)
    assert found.samples == pytest.approx((2.5, 2.6, 2.4))
    assert found.median == pytest.approx(2.5)


def test_the_report_says_what_was_met_missed_and_not_measured(tmp_path: Path) -> None:
    clicks = (
        Series("samihs fp32", "click, 1 prompt", "s", (0.1, 0.1)),
        Series(tables.EAGER, "click, 1 prompt", "s", (0.15, 0.15)),
    )
    result("peers-vit_b", *ENCODES, *clicks).write(tmp_path / "results")
    text = report.write(tmp_path / "results", tmp_path).read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ViT-B")]
    assert "| 2.5 | met |" in rows[0]
    assert "not measured" in rows[1]
    assert "| 1.5 | **missed** |" in rows[2]
    assert "| samihs fp32 | 1000 (1000 to 1500) | 3 | 2.50 x |" in text  # the named reference
    assert (tmp_path / "plots/peers-vit_b-cpu.png").stat().st_size > 1000


@pytest.mark.parametrize(("seconds", "told"), [(1.0, True), (0.5, False)])
def test_a_missed_target_says_why_and_what_was_tried(
    tmp_path: Path, seconds: float, told: bool
) -> None:
    """If the target is met, no reason is given."""
    series = (
        Series("samihs fp32", "encode", "s", (seconds,)),
        Series(tables.EAGER, "encode", "s", (1.5,)),
    )
    result("peers-vit_b", *series).write(tmp_path / "results")
    text = report.write(tmp_path / "results", tmp_path).read_text()
    assert (targets.fp32_encode({}) in text) == told
    assert targets.int8_encode({}) not in text  # not measured


def test_the_figures_of_a_reason_are_those_of_the_profile() -> None:
    series = (
        Series("samihs int8, encode", targets.ATTENTION, "s", (0.6,)),
        Series("samihs int8, encode", targets.PRODUCTS_INT8, "s", (0.4,)),
        Series(tables.MACHINE, "matrix rate, fp32", "GFLOP/s", (100.0,)),
        Series(tables.MACHINE, "matrix rate, int8", "GFLOP/s", (400.0,)),
    )
    flop = {"samihs int8, encode": {targets.ATTENTION: 30e9, targets.PRODUCTS_INT8: 80e9}}
    profile = dataclasses.replace(result("operators-vit_b", *series), settings={"flop": flop})
    told = targets.int8_encode({targets.PROFILE: profile})
    assert "60% of the 8-bit encode is attention in float32, at 50% of the machine's rate" in told
    assert "products take 40%, at 50% of the rate of their type" in told


def test_the_reason_for_fp32_takes_its_figures_from_three_records() -> None:
    ours, theirs, rate = "samihs fp32, encode", f"{tables.EAGER}, encode", "matrix rate, fp32"
    series = (
        Series(ours, targets.PRODUCTS, "s", (0.5,)),
        Series(ours, targets.ATTENTION, "s", (0.3,)),
        Series(ours, "Softmax", "s", (0.2,)),
        Series(theirs, "aten::add_", "s", (0.4,)),
        Series(theirs, "aten::addmm", "s", (0.6,)),
        Series(tables.MACHINE, rate, "GFLOP/s", (100.0,)),
    )
    flop = {ours: {targets.PRODUCTS: 25e9, targets.ATTENTION: 24e9}}
    profile = dataclasses.replace(result("operators-vit_b", *series), settings={"flop": flop})
    others = {
        name: result(name, Series(tables.MACHINE, rate, "GFLOP/s", (found,)))
        for name, found in (("peers-vit_b-cpu", 150.0), ("latency-cpu", 160.0))
    }
    told = targets.fp32_encode({targets.PROFILE: profile, **others})
    assert "make up 80% of our encode and run at 50% and 80% of the machine's own rate" in told
    assert "SamPredictor spends 40% of its time on additions" in told
    assert "150 GFLOP/s in peers-vit_b-cpu and 160 GFLOP/s in latency-cpu" in told


def test_no_claim_is_made_inside_the_noise() -> None:
    noisy = ratios((1.0, 1.0, 1.0, 1.0), (0.9, 1.1, 0.95, 1.05))
    assert tables.verdict(noisy).endswith("within the noise")
    assert tables.verdict(ratios((1.0, 1.0), (2.0, 2.1))) == "2.05 x"
    assert tables.verdict(ratios((1.0,), (2.0,))) == "2.00 x, one sample"


def test_quantities_of_one_subject_share_a_table_with_the_floor(tmp_path: Path) -> None:
    """Twice the floor in every round, no matter how slow the round."""
    result(
        "latency",
        Series("samihs-infer", "cold, one slice", "s", (2.0, 4.0, 2.2)),
        Series("python + numpy", "cold", "s", (1.0, 2.0, 1.1)),
        Series("cpu", "click", "s", (0.008,)),
    ).write(tmp_path / "results")
    text = report.write(tmp_path / "results", tmp_path).read_text()
    head = "| quantity | of | median | quartiles | samples | times python + numpy |"
    assert text.count("| quantity |") == 1
    table = text[text.index(head) :].splitlines()
    assert table[2] == "| cold, one slice | samihs-infer | 2200 ms | 2100 to 3100 | 3 | 2.00 x |"
    assert table[3] == "| cold | python + numpy | 1100 ms | 1050 to 1550 | 3 |  |"
    assert table[4] == "| click | cpu | 8 ms | 8 to 8 | 1 |  |"


def test_memory_beyond_the_smallest_grows_with_what_is_added_to_it() -> None:
    """30 MB per prompt after the first, whose own memory is already included."""
    peaks = [("1", 0.5), ("2", 30.0), ("4", 90.0), ("8", 210.0)]
    assert scaling_tables.exponent(scaling_tables.beyond_the_first(peaks)) == pytest.approx(1.0)
    axis = f"{scaling_tables.BEYOND[2]}{scaling_tables.MEMORY}"
    series = [Series(axis, size, "MB", (mb,)) for size, mb in peaks]
    row = scaling_tables.exponents(result("scaling", *series))[2]
    assert row.endswith("| 1.00 | 1 |")


def test_an_exponent_is_fitted_where_sizes_are_numbers() -> None:
    assert scaling_tables.exponent([("1", 2.0), ("2", 8.0), ("4", 32.0)]) == pytest.approx(2.0)
    assert scaling_tables.exponent([("vit_b", 1.0), ("vit_l", 2.0)]) is None
    assert scaling_tables.exponent([("256", 1.0)]) is None  # a line through one point
    assert scaling_tables.exponent([("1", 0.0), ("2", 1.0)]) is None  # no logarithm of zero


def test_a_slower_work_is_named_and_a_slower_machine_is_not() -> None:
    check = pytest.importorskip("check")
    baseline = {"encode": 2.0, "click": 0.5}
    assert check.slower({"encode": 2.5, "click": 0.5}, baseline, slack=1.3) == {}
    found = check.slower({"encode": 2.7, "click": 0.5}, baseline, slack=1.3)
    assert found == {"encode": (2.7, 2.0)}


def test_a_machine_is_described_without_its_name() -> None:
    import platform

    described = json.dumps(recording.machine())
    assert platform.node() not in described or not platform.node()
    assert dataclasses.asdict(result("x"))["machine"] == MACHINE


def test_a_floor_is_the_slower_of_computing_and_moving(tmp_path: Path) -> None:
    written = result(
        "latency",
        Series(tables.MACHINE, "matrix rate, fp32", "GFLOP/s", (100.0,)),
        Series(tables.MACHINE, "memory bandwidth", "GB/s", (10.0,)),
        Series("cpu", "encode, batch 1", "s", (0.05,)),
    )
    work = {"encode, batch 1": {"cpu": {"flop": 2e9, "bytes": 1e8, "type": "fp32"}}}
    dataclasses.replace(written, settings={"work": work}).write(tmp_path / "results")
    text = report.write(tmp_path / "results", tmp_path).read_text()
    row = next(line for line in text.splitlines() if "2 at 100/s" in line)
    assert row == (
        "| encode, batch 1 | cpu | 2 at 100/s (fp32): 20 ms | 100 at 1e+04/s: 10 ms | 50 | 2.50 |"
    )


def test_floors_are_of_subjects_whose_work_is_known(tmp_path: Path) -> None:
    """Each at the rate of its own type, others not at all; a slow rate is reported."""
    written = result(
        "peers-vit_b",
        Series(tables.MACHINE, "matrix rate, fp32", "GFLOP/s", (100.0,)),
        Series(tables.MACHINE, "matrix rate, bf16", "GFLOP/s", (400.0,)),
        Series(tables.MACHINE, "memory bandwidth", "GB/s", (10.0,)),
        Series("eager", "encode", "s", (0.015,)),
        Series("autocast", "encode", "s", (0.015,)),
        Series("samihs int8", "encode", "s", (0.015,)),
    )
    work = {name: {"flop": 2e9, "bytes": 0, "type": kind} for name, kind in
            (("eager", "fp32"), ("autocast", "bf16"), ("absent", "fp32"))}  # fmt: skip
    rows = tables.floors(dataclasses.replace(written, settings={"work": {"encode": work}}))[2:-1]
    assert rows[0].endswith("| 15 | 0.75: faster than the rate that was measured |")
    assert rows[1].endswith("| 15 | 3.00 |")
    assert len(rows) == 2


def test_nothing_is_divided_without_a_reference() -> None:
    written = dataclasses.replace(result("training", *ENCODES), settings={})
    assert tables.quantities(written)[0] == "| encode | median (quartiles), ms | n |"
    named = dataclasses.replace(written, settings={"reference": "samihs fp32"})
    assert tables.quantities(named)[0].endswith("| n | samihs fp32 / this |")


OLD, NEW = ({"adapters_sha256": each, "base_sha256": "b", "bundle_id": each} for each in "on")


def test_among_different_weights_the_newest_counts_whatever_its_size(tmp_path: Path) -> None:
    full = dataclasses.replace(result("peers-vit_b", *ENCODES), weights=OLD)
    later = "2026-01-02T23:04:05+00:00"
    smaller = dataclasses.replace(result("peers-vit_b", ENCODES[0], date=later), weights=NEW)
    full.write(tmp_path)
    smaller.write(tmp_path)
    texts_changed = {**NEW, "bundle_id": "another"}
    empty = dataclasses.replace(result("peers-vit_b", date=later), weights=texts_changed)
    empty.write(tmp_path)
    assert ranked(tmp_path.glob("*.json"))["peers-vit_b-cpu"] == [smaller, empty, full]


def test_a_record_of_other_weights_is_marked() -> None:
    record = dataclasses.replace(result("cost"), weights=OLD)
    marked = "**Measured with other weights than the shipped bundle's**: adapters_sha256 o, base_"
    assert any(line.startswith(marked) for line in report._section("cost", record, [], NEW))
    for weights in (NEW, {**NEW, "bundle_id": "of other texts"}, {}):
        same = dataclasses.replace(record, weights=weights)
        assert not any("other weights" in line for line in report._section("cost", same, [], NEW))
    timed = result("latency", Series("cpu", "encode, batch 1", "s", (0.1,)))
    for weights, verdict in ((OLD, "met, with other weights"), (NEW, "met")):
        found = {"latency-cpu": dataclasses.replace(timed, weights=weights)}
        rows = targets.targets(found, NEW)
        assert f"| encode, shipped model, s | at most 0.25 | 0.1 | {verdict} |" in rows
    unknown = dataclasses.replace(record, weights=UNKNOWN)
    assert any("not recorded" in line for line in report._section("cost", unknown, [], NEW))


def test_slow_clicks_are_reported_if_there_are_enough(tmp_path: Path) -> None:
    many = tuple(each / 1000 for each in range(1, 101))
    result(
        "latency",
        Series("cpu", "click, 1 prompt", "s", many),
        Series("cpu", "click, 8 prompts", "s", many[:20]),
        Series("cpu", "click, 2 prompts", "s", many[:3]),
    ).write(tmp_path / "results")
    text = report.write(tmp_path / "results", tmp_path).read_text()
    assert "| click, 1 prompt | cpu | 51 | 96 | 100 | 100 |" in text
    assert "| click, 8 prompts | cpu | 11 | 20 | too few samples | 20 |" in text
    assert "| click, 2 prompts | cpu | 2 | 2" not in text


def test_rounds_end_with_the_time_and_this_is_reported() -> None:
    spent = Budget(0.0)
    taken = interleaved({"a": lambda: None, "b": lambda: None}, 5, budget=spent)
    assert [len(each) for each in taken.values()] == [2, 2]
    assert spent.shortened == ["rounds of a, b: 2 of 5"]
    assert len(interleaved({"a": lambda: None}, 5)["a"]) == 5


def test_a_part_of_a_budget_reports_to_the_whole() -> None:
    whole = Budget(100.0)
    assert whole.part(0.5).seconds == pytest.approx(50.0, abs=0.1)
    list(Budget(0.0, whole.shortened).rounds(3, "rounds", least=1))
    assert whole.shortened == ["rounds: 1 of 3"]


def test_a_command_is_shown_as_typed_without_the_machines_folders() -> None:
    given = ["/home/someone/x/benchmarks/bench.py", "--geometry", "5 mm", "--base=/a/b/c.bin"]
    assert command_of(given) == "python benchmarks/bench.py --geometry '5 mm' --base=.../c.bin"
    named = command_of(["methods.py", "--checkpoint", "LoRA=/a/method=lora seed=1/adapters.bin"])
    assert named == "python benchmarks/methods.py --checkpoint LoRA=.../adapters.bin"
