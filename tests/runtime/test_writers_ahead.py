"""The libraries behind the output formats, loaded while the encoder works."""

from __future__ import annotations

import pytest

from samihs_runtime import writers


def test_only_what_the_formats_need_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(writers, "import_module", loaded.append)
    writers.load_ahead(["json", "seg"]).join()
    assert loaded == ["samihs_runtime.writers.seg"]
    writers.load_ahead(["json", "nifti"]).join()
    assert loaded == ["samihs_runtime.writers.seg"]


def test_what_fails_ahead_is_left_to_the_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    failed: list[object] = []
    monkeypatch.setattr("threading.excepthook", failed.append)

    def broken(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(writers, "import_module", broken)
    writers.load_ahead(writers.DEFAULT_FORMATS).join()
    assert not failed


def test_every_module_that_is_loaded_ahead_exists() -> None:
    for kind, module in writers._MODULES.items():
        assert kind in writers.NAMES
        assert writers.import_module(f"samihs_runtime.writers.{module}")
