"""Who may import whom, read from the sources; and what the commands load, seen in a process."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "samihs_runtime": ROOT / "runtime/samihs_runtime",
    "samihs_training": ROOT / "training/samihs_training",
    "samihs_export": ROOT / "export/samihs_export",
}
FORBIDDEN = {
    "samihs_runtime": {
        *("torch", "torchvision", "segment_anything", "monai", "safetensors"),
        *("onnx", "onnxscript", "samihs_training", "samihs_export", "benchmarks", "tests"),
    },
    "samihs_training": {"samihs_export", "benchmarks", "tests"},
    "samihs_export": {"benchmarks", "tests"},
}
HEAVY = ("torch", "onnxruntime", "highdicom", "scipy", "onnx", "tensorrt_rtx", "tensorrt", "cuda")
"""What no command loads before it knows that it needs it."""


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and top-level name of every import in a file, those inside functions as well."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module.split(".")[0]


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_imports_go_one_way(package: str) -> None:
    files = sorted(PACKAGES[package].rglob("*.py"))
    assert files, f"no sources below {PACKAGES[package]}"
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in files
        for line, name in imports(path)
        if name in FORBIDDEN[package]
    ]
    assert not wrong, "\n".join(wrong)


def test_the_reader_of_imports_sees_them_all(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text("import torch.nn as nn\ndef f():\n    from samihs_export.merge import m\n")
    assert list(imports(path)) == [(1, "torch"), (3, "samihs_export")]


@pytest.mark.parametrize("module", ["cli", "segmenter", "doctor"])
def test_importing_the_runtime_loads_nothing_heavy(module: str) -> None:
    code = (
        f"import sys, samihs_runtime.{module}\n"
        f"print(' '.join(sorted(set({HEAVY!r}) & {{m.split('.')[0] for m in sys.modules}})))"
    )
    done = subprocess.run(  # the interpreter and the code are ours
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def loaded_by(module: str, seen: set[str]) -> Iterator[str]:
    """Third-party packages that importing one of our modules imports, through others of ours."""
    package = PACKAGES.get(module.split(".")[0])
    if package is None:
        yield module.split(".")[0]
        return
    if module in seen:
        return
    seen.add(module)
    base = package.parent / module.replace(".", "/")
    path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    if not path.is_file():  # a name within the package, not a module of it
        return
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            ours = node.module.split(".")[0] in PACKAGES
            inner = [f"{node.module}.{alias.name}" for alias in node.names] if ours else []
            names = [node.module, *inner]
        for name in names:
            yield from loaded_by(name, seen)


@pytest.mark.parametrize("extra", ["gpu", "tensorrt", "export"])
def test_an_extra_that_brings_tensorrt_brings_what_building_engines_imports(extra: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = (*project["dependencies"], *project["optional-dependencies"][extra])
    brought = {re.split(r"[\[<>=!~; ]", each)[0] for each in listed}
    seen: set[str] = set()
    packages = {
        name
        for module in (
            "samihs_export.cli",
            "samihs_export.engines.tensorrt",
            "samihs_export.engines.build_options",
        )
        for name in loaded_by(module, seen)
    }
    assert "samihs_export.engines.refit" in seen
    needed = packages - set(sys.stdlib_module_names)
    assert {"numpy", "onnx"} <= needed
    of = metadata.packages_distributions()
    missing = {name for name in needed if not brought & {each.lower() for each in of[name]}}
    assert not missing, f"samihs[{extra}] lacks {', '.join(sorted(missing))}"
