"""torch's answers to the parity cases: the reference of every gate."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from samihs_export.graphs.decoder_graph import DecoderGraph
from samihs_export.graphs.encoder_graph import EncoderGraph
from samihs_export.proof.cases import Answer, ParityCase
from samihs_training.network.model import SamihsModel, mask_at_slice_size


@torch.no_grad()
def answers_of_model(model: SamihsModel, cases: Sequence[ParityCase]) -> list[Answer]:
    """Answers of the torch model, adapted or merged, one case at a time, in its own type."""
    with _KeepsFloat64():
        return [_ask(model.eval(), case) for case in cases]


class _KeepsFloat64(TorchFunctionMode):
    """``x.float()`` leaves a float64 tensor as it is.

    A pyramid's decoder widens half precision to float32 by it; float64 needs no widening.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is Tensor.float and args[0].dtype == torch.float64:
            return args[0]
        return func(*args, **(kwargs or {}))


def in_float64(model: SamihsModel) -> SamihsModel:
    """A float64 copy; only prompt positions stay float32: segment-anything casts them to it."""
    exact = copy.deepcopy(model).double()
    exact.sam.prompt_encoder.pe_layer.float()
    return exact


@torch.no_grad()
def answers_of_graphs(
    encoder: EncoderGraph, decoder: DecoderGraph, cases: Sequence[ParityCase]
) -> list[Answer]:
    """Answers of the torch graphs that the ONNX files were written from, in their own types.

    For bfloat16, which torch computes on the CPU and ONNX Runtime does not.
    """
    encoder.eval()
    decoder.eval()
    return [_ask_graphs(encoder, decoder, case) for case in cases]


def put_weights(graph: nn.Module, path: Path) -> None:
    """Load the weights of an ONNX file, by name, into the torch graph it was written from.

    Weights that the file does not hold by name, such as those that the exporter folded into a
    constant, keep the graph's values.
    """
    state = graph.state_dict()
    stored = {each.name: each for each in onnx.load(path).graph.initializer if each.name in state}
    graph.load_state_dict({n: _as_tensor(each) for n, each in stored.items()}, strict=False)


def _as_tensor(stored: onnx.TensorProto) -> Tensor:
    array = np.array(numpy_helper.to_array(stored))
    if stored.data_type == onnx.TensorProto.BFLOAT16:  # numpy has no bfloat16 of its own
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def as_tensors(feeds: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    """A case's feeds for a torch graph."""
    return {name: torch.from_numpy(value) for name, value in feeds.items()}


def _ask_graphs(encoder: EncoderGraph, decoder: DecoderGraph, case: ParityCase) -> Answer:
    embedding = encoder(**as_tensors(case.slice_feeds()))
    logits, mask, score = decoder(embedding, **as_tensors(case.prompt_feeds(decoder.mask_size)))
    return Answer(
        logits[0, 0].numpy(), mask[0].bool().numpy(), float(score[0]), embedding[0].numpy()
    )


def _ask(model: SamihsModel, case: ParityCase) -> Answer:
    size, dtype = case.hu.shape[0], next(model.parameters()).dtype
    hu = torch.from_numpy(case.hu)[None, None].to(dtype)
    window = torch.from_numpy(case.window)[None].to(dtype)
    embedding = model.encode(hu, window)
    prior = None if case.prior is None else torch.from_numpy(case.prior)[None, None].to(dtype)
    logits, score = model.decode(
        embedding,
        torch.from_numpy(case.points)[None],
        torch.from_numpy(case.labels)[None],
        prior,
        slice_size=size,
    )
    mask = mask_at_slice_size(logits, size)
    return Answer(logits[0, 0].numpy(), mask[0, 0].numpy(), float(score[0]), embedding[0].numpy())
