"""``samihs-doctor``: what runs on this machine, what does not, and the command that fixes it."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from samihs_runtime.backends.probe import GpuProbe
from samihs_runtime.diagnosis import BackendState, Diagnosis, diagnose
from samihs_runtime.errors import one_line_errors


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--bundle",
    "bundle_path",
    type=click.Path(path_type=Path),
    help="Bundle to examine.  [default: the shipped one]",
)
@click.option("--json", "to_json", is_flag=True, help="Print JSON.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.version_option(package_name="samihs")
@one_line_errors
def main(bundle_path: Path | None, to_json: bool, debug: bool) -> None:
    """Say which backends work on this machine, and how to fix the others.

    Exits 0 when at least one works, 1 otherwise.
    """
    if debug:
        os.environ["SAMIHS_DEBUG"] = "1"
    diagnosis = diagnose(bundle_path)
    if to_json:
        click.echo(as_json(diagnosis))
    else:
        render(diagnosis, Console())
    raise SystemExit(0 if diagnosis.works else 1)


def as_json(diagnosis: Diagnosis) -> str:
    """The diagnosis as JSON text."""
    data: dict[str, Any] = {"works": diagnosis.works, **dataclasses.asdict(diagnosis)}
    return json.dumps(data, indent=2)


def render(diagnosis: Diagnosis, console: Console) -> None:
    """Print the diagnosis in readable form."""
    _line(console, f"Python {diagnosis.python} on {diagnosis.platform}")
    _line(console, _gpu_words(diagnosis.gpu))
    words = ", ".join(f"{name} {version}" for name, version in diagnosis.packages.items())
    _line(console, f"packages: {words or 'none of those it uses'}")
    mark = "bundle: " if diagnosis.bundle_opens else "bundle cannot be opened: "
    _line(console, mark + diagnosis.bundle)
    for engine in diagnosis.engines:
        _line(console, f"engine {engine.name}: {'fits' if engine.fits else engine.detail}")
    for conflict in diagnosis.conflicts:
        _line(console, f"conflict: {conflict.problem}", "yellow")
        _line(console, f"    fix: {conflict.mend}", "bold")
    if diagnosis.backends:
        _render_backends(diagnosis.backends, console)
    _line(console, *_verdict(diagnosis))


def _verdict(diagnosis: Diagnosis) -> tuple[str, str]:
    """The last line, and its style."""
    works = [each.name for each in diagnosis.backends if each.works]
    if not works:
        return "nothing works here yet; each line above says how to fix it", "red"
    if diagnosis.chosen in works:
        return f"samihs-infer will use: {diagnosis.chosen}", "green"
    taken = f"takes {diagnosis.chosen}, which fails" if diagnosis.chosen else "ends in an error"
    return f"samihs-infer {taken} as shown above: give --backend {works[0]}", "yellow"


def _gpu_words(gpu: GpuProbe) -> str:
    if not gpu.devices:
        return f"GPU: none ({gpu.reason})"
    cuda = f"driver supports CUDA {gpu.cuda[0]}.{gpu.cuda[1]}" if gpu.cuda else "driver unknown"
    names = "; ".join(
        f"{each.name}, compute capability {each.compute_capability}, "
        f"{each.memory_bytes / 2**30:.0f} GiB"
        for each in gpu.devices
    )
    return f"GPU: {names} ({cuda})"


def _render_backends(backends: list[BackendState], console: Console) -> None:
    table = Table("backend", "works", "encode", "click")
    for each in backends:
        encode = f"{each.encode_s * 1e3:.1f} ms" if each.encode_s is not None else ""
        answer = f"{each.click_s * 1e3:.1f} ms" if each.click_s is not None else ""
        table.add_row(each.name, "yes" if each.works else "no", encode, answer)
    console.print(table)
    for each in backends:
        _line(console, f"{each.name}: {each.detail}")


def _line(console: Console, text: str, style: str = "") -> None:
    # Text, not markup: 'samihs[cpu]' is not a tag. Soft wrap: a command can be copied whole.
    console.print(Text(text, style=style), soft_wrap=True)


if __name__ == "__main__":
    main()
