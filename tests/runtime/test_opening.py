"""Opening a segmenter beside other work: what is loaded, what is closed, whose error is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from samihs_runtime.errors import BackendError, BundleError
from samihs_runtime.opening import Opening
from samihs_runtime.options import Options
from samihs_runtime.writers import WriteOptions


def options(bundle: Path, store: Path | None = None) -> Options:
    return Options(
        bundle, "cpu", Path("out"), ("json",), propagation=True, write=WriteOptions(), store=store
    )


def test_both_graphs_are_loaded_before_the_first_slice(tiny_bundle: Path) -> None:
    with Opening(options(tiny_bundle)) as opening:
        stages = opening.segmenter().timings.stages()
        assert {"load encoder", "load decoder"} <= stages.keys()
        assert opening.segmenter() is opening.segmenter()


def test_a_store_may_hold_the_embedding_so_nothing_is_loaded(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    with Opening(options(tiny_bundle, tmp_path / "store")) as opening:
        stages = opening.segmenter().timings.stages()
    assert "verify bundle" in stages
    assert not {"load encoder", "load decoder"} & stages.keys()


def test_what_goes_wrong_beside_it_closes_it(tiny_bundle: Path) -> None:
    kept = []

    def work(opening: Opening) -> None:
        kept.append(opening.segmenter())
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), Opening(options(tiny_bundle)) as opening:
        work(opening)
    with pytest.raises(BackendError, match="closed"):
        kept[0].encode(np.zeros((64, 64), np.int16))


def test_it_is_closed_even_where_nobody_asked_for_it(tiny_bundle: Path) -> None:
    with pytest.raises(ZeroDivisionError), Opening(options(tiny_bundle)) as opening:
        raise ZeroDivisionError
    with pytest.raises(BackendError, match="closed"):
        opening.segmenter().load()


def test_only_those_who_ask_are_told_why_it_does_not_open(tmp_path: Path) -> None:
    with Opening(options(tmp_path / "none")) as opening:
        pass
    with pytest.raises(BundleError):
        opening.segmenter()


def test_a_graph_that_does_not_load_is_told_and_nothing_stays_open(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from samihs_runtime.segmenter import Segmenter

    closed: list[Segmenter] = []
    close = Segmenter.close

    def refuse(self: Segmenter) -> None:
        raise BundleError("a graph of another age")

    def noting(self: Segmenter) -> None:
        closed.append(self)
        close(self)

    monkeypatch.setattr(Segmenter, "load", refuse)
    monkeypatch.setattr(Segmenter, "close", noting)
    with Opening(options(tiny_bundle)) as opening, pytest.raises(BundleError, match="another age"):
        opening.segmenter()
    assert len(closed) == 1
