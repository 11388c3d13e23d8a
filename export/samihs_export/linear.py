"""Linear layers whose ONNX weights keep their names.

torch stores a linear layer's weight as [out, in] and ONNX multiplies by [in, out]: the exporter
transposes it into a constant called ``val_35``. Stored as [in, out] it stays what it is called in
the graph, ``blocks.3.mlp.lin1.weight``: the name by which precision plans, refitting and reports
speak of a layer.
"""

from __future__ import annotations

from torch import Tensor, nn


class NamedLinear(nn.Module):
    """``x @ weight + bias`` with weight [in, out]; x [..., in] -> [..., out]."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear.weight.detach().mT.contiguous())
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach())

    def forward(self, x: Tensor, *, biased: bool = True) -> Tensor:
        product = x @ self.weight
        return product if self.bias is None or not biased else product + self.bias


def name_weights(module: nn.Module) -> None:
    """Replace every ``nn.Linear`` below the module by a :class:`NamedLinear`, in place."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Linear):
            setattr(module, name, NamedLinear(child))
        else:
            name_weights(child)
