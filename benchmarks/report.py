"""Make ``REPORT.md`` and its pictures from ``benchmarks/results/*.json``.

    python benchmarks/report.py [--results DIR] [--out DIR]

Medians are given with their quartiles. Ratios are computed round by round, and count as a
difference only if both quartiles lie on the same side of 1. Accuracies are means with 95 %
intervals. If a benchmark has several records, one is shown (``record.py``), and newer ones are
mentioned. Records measured with other weights than the shipped bundle's are marked. The reasons for
missed targets are worded by hand, with the figures of the records (``targets.py``).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from accuracy import is_accuracy
from accuracy_tables import accuracies
from operator_tables import operators
from plots import picture
from record import RESULTS, Record, ranked
from scaling_tables import exponents
from tables import floors, imports, quantiles, quantities, stages
from targets import targets
from weights import of_others, of_shipped

HERE = Path(__file__).parent


def write(results: Path, out: Path) -> Path:
    """Write the report, with the preferred record of each benchmark; returns its file."""
    found = ranked(results.glob("*.json"))
    records = {name: first for name, (first, *_) in found.items()}
    shipped = of_shipped()
    lines = ["# Benchmarks", "", "Made by `python benchmarks/report.py` from the result files.", ""]
    lines += ["## Targets", "", *targets(records, shipped), ""]
    for name, record in records.items():
        newer = [each for each in found[name] if each.date > record.date]
        lines += [*_section(name, record, newer, shipped), ""]
        drawn = picture(name, record, out)
        if drawn is not None:
            lines += [f"![{name}]({drawn.relative_to(out).as_posix()})", ""]
    path = out / "REPORT.md"
    path.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return path


def _section(
    name: str, record: Record, newer: Sequence[Record], shipped: Mapping[str, str]
) -> list[str]:
    """Command, machine, versions and settings, then the tables, then what was not measured.

    ``newer``: records of the same weights that are not shown because they have fewer samples;
    ``shipped``: the hashes of the shipped bundle's weights.
    """
    machine = record.machine
    where = f"{machine['processor']}, {machine['cores']} cores"
    where += "".join(f", {each}" for each in machine["gpus"])
    where += f", {machine['system']}, Python {machine['python']}"
    versions = ", ".join(f"{package} {version}" for package, version in record.versions.items())
    plain = {k: v for k, v in record.settings.items() if isinstance(v, (str, int, float))}
    settings = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in plain.items())
    lines = [
        f"## {name}",
        "",
        f"`{record.command}` on {where}; {record.date[:10]}, commit {record.commit}. {versions}.",
        *(["", f"Settings: {settings}."] if settings else []),
        "",
        *_marked(record.weights, shipped),
    ]
    for each in newer:
        lines += [
            f"Newer but smaller, not shown: `{each.command}`; {each.date[:10]}, commit "
            f"{each.commit}, {each.size} samples. These are {record.size}.",
            "",
        ]
    if record.benchmark == "scaling":
        lines += exponents(record)
    elif record.benchmark.startswith("operators-"):
        lines += operators(record)
    elif is_accuracy(record):
        lines += accuracies(record)
    else:
        for part in (quantities, quantiles, floors, stages, imports):
            lines += part(record)
    short = record.settings.get("shortened", ())
    lines += [f"- cut short by the time allowed: {each}" for each in short]
    lines += [f"- {subject}: not measured: {why}" for subject, why in record.not_measured.items()]
    return lines


def _marked(weights: Mapping[str, str], shipped: Mapping[str, str]) -> list[str]:
    """A note if the record is of another model than the shipped one; nothing if it is of none."""
    if not of_others(weights, shipped):
        return []
    told = ", ".join(f"{key} {value[:12]}" for key, value in weights.items())
    return [f"**Measured with other weights than the shipped bundle's**: {told}.", ""]


def main() -> None:
    """Write the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    print(f"written  {write(options.results, options.out)}")


if __name__ == "__main__":
    main()
