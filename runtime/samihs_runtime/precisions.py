"""The precisions of graphs and engines: a module of its own, so that ``--help`` loads no bundle."""

PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")
FASTEST_FIRST = ("fp8", "int8", "fp16", "bf16", "fp32")
"""In the order in which engines of a bundle are chosen on a GPU."""
