"""Each step of an export, compared with torch's answers to the same cases.

With trained weights the reference is the adapted model in float32 and the limits are fixed; with
random weights it is the adapted model in float64, and the limits are multiples of float32's own
error (``gates``). A step that fails names the case, and the layers between which its result first
deviates from the model that it was made from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

from samihs_export.graphs.decoder_graph import DecoderGraph
from samihs_export.graphs.encoder_graph import EncoderGraph
from samihs_export.graphs.families import graph_pair
from samihs_export.proof.cases import Answer, ParityCase
from samihs_export.proof.gates import GATES, MERGE_GATES, Gates, OwnError, gates_for
from samihs_export.proof.layers import Parting, first_parting, inputs_of_onnx, inputs_of_torch
from samihs_export.proof.parity import NOT_IN_ONNX_RUNTIME, ParityResult, answers_of_onnx, compare
from samihs_export.proof.reference import (
    answers_of_graphs,
    answers_of_model,
    as_tensors,
    in_float64,
    put_weights,
)
from samihs_export.proof.report import WorstCase, worst_case
from samihs_runtime.bundle.entries import GraphEntry
from samihs_training.network.model import SamihsModel

Witness = Callable[[str, Sequence[Answer]], None]


@dataclass(frozen=True, eq=False)
class Proof:
    """The reference of one export, and the gates that go with it."""

    adapted: SamihsModel
    cases: Sequence[ParityCase]
    reference: Sequence[Answer]
    own: OwnError | None
    """float32 torch against the float64 reference; None for trained weights."""

    @classmethod
    def of(cls, adapted: SamihsModel, cases: Sequence[ParityCase], *, trained: bool) -> Self:
        """Run the adapted model on the cases; with random weights in both float32 and float64."""
        answers = answers_of_model(adapted, cases)
        if trained:
            return cls(adapted, cases, answers, None)
        exact = answers_of_model(in_float64(adapted), cases)
        own = compare("float32 torch against float64 torch", exact, answers)
        error = OwnError(own.embedding_relative or 0.0, own.logits_relative)
        return cls(adapted, cases, exact, error)

    def gates(self, precision: str) -> Gates:
        """The limits for a graph of this precision."""
        return self.own.gates(precision) if self.own else gates_for(precision)

    @property
    def merge_gates(self) -> Gates:
        """The limits for the merged torch model."""
        return self.own.gates("fp32") if self.own else MERGE_GATES

    def prove_merge(self, merged: SamihsModel) -> ParityResult:
        """Compare the merged model with the adapted one. Raises :class:`ParityError`."""
        answers = answers_of_model(merged, self.cases)
        result = compare("merged torch against adapted torch", self.reference, answers)
        worst = self.worst_case(result.name, answers)
        result.require(self.merge_gates, lambda: self._merge_parting(merged, worst))
        return result

    def prove_graph(
        self,
        folder: Path,
        entry: GraphEntry,
        merged: SamihsModel,
        witness: Witness = lambda name, answers: None,
    ) -> ParityResult:
        """Compare a written pair of graphs with the adapted model. Raises :class:`ParityError`.

        ``witness`` receives the comparison's name and the answers, whether or not the gates hold.

        The files are run in ONNX Runtime. For bfloat16, which its CPU provider does not compute,
        torch runs the graphs that the files were written from (``type_check`` has checked their
        types) with the weights of the files.
        """
        if entry.precision in NOT_IN_ONNX_RUNTIME:
            pair = graph_pair(merged, entry.family, "bf16", self.cases[0].hu.shape[0])
            for graph, path in zip(pair, (entry.encoder, entry.decoder), strict=True):
                put_weights(graph, folder / path)
            answers, where = answers_of_graphs(*pair, self.cases), "torch"
        else:
            paths = folder / entry.encoder, folder / entry.decoder
            answers, where = answers_of_onnx(*paths, self.cases), "ONNX Runtime"
        name = f"{entry.family} {entry.precision} in {where} against torch"
        witness(name, answers)
        result = compare(name, self.reference, answers)
        if entry.precision in NOT_IN_ONNX_RUNTIME:
            result.require(self.gates(entry.precision))
            return result
        worst = self.worst_case(name, answers)
        gates = self.gates(entry.precision)
        result.require(gates, lambda: self._graph_parting(folder, entry, merged, worst))
        return result

    def worst_case(self, name: str, answers: Sequence[Answer]) -> WorstCase:
        """The case on which to look for a fault: not every prompt exercises every layer.

        Args:
            name: what was compared with what.
            answers: a graph's answers to all cases.
        """
        judged = self.own is None
        return worst_case(name, self.cases, self.reference, answers, masks_judged=judged)

    def _merge_parting(self, merged: SamihsModel, worst: WorstCase) -> str:
        models, case = (self.adapted, merged), [worst.case]
        sides = [inputs_of_torch(m, lambda m=m: answers_of_model(m, case)) for m in models]  # type: ignore[misc]
        parting = first_parting(sides[0], sides[1], GATES["fp32"].embedding_relative)
        return _said(parting, worst)

    def _graph_parting(
        self, folder: Path, entry: GraphEntry, merged: SamihsModel, worst: WorstCase
    ) -> str:
        case, tolerance = worst.case, GATES[entry.precision].embedding_relative
        encoder, feeds = EncoderGraph(merged).eval(), case.slice_feeds()
        ours = inputs_of_torch(encoder, lambda: encoder(**as_tensors(feeds)))
        parting = first_parting(ours, inputs_of_onnx(folder / entry.encoder, feeds), tolerance)
        if parting is None:
            parting = self._decoder_parting(folder / entry.decoder, merged, case, tolerance)
        return _said(parting, worst)

    def _decoder_parting(
        self, path: Path, merged: SamihsModel, case: ParityCase, tolerance: float
    ) -> Parting | None:
        decoder = DecoderGraph(merged, case.hu.shape[0]).eval()
        embedding = torch.no_grad()(merged.encode)(**as_tensors(case.slice_feeds()))
        feeds = {"embedding": embedding.numpy(), **case.prompt_feeds(merged.config.mask_size)}
        ours = inputs_of_torch(decoder, lambda: decoder(**as_tensors(feeds)))
        return first_parting(ours, inputs_of_onnx(path, feeds), tolerance)


def _said(parting: Parting | None, worst: WorstCase) -> str:
    where = f"on case {worst.number} ({worst.case.prompt}), which differs most, "
    if parting is None:
        return (
            f"{where}every layer gets the same input, so the fault lies in the last layers' "
            "weights, in what follows them, or in layers that only another case exercises"
        )
    return f"{where}{parting}"
