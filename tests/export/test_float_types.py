"""The precisions are those of the runtime, each with one float type; options name them."""

from __future__ import annotations

from typing import get_args

import pytest

from samihs_export.float_types import FLOAT_OF, FLOATS, Precision, read_precisions
from samihs_runtime.errors import UsageError
from samihs_runtime.precisions import PRECISIONS


def test_the_precisions_are_those_of_the_runtime() -> None:
    assert get_args(Precision) == tuple(FLOAT_OF) == PRECISIONS


def test_the_float_type_of_a_float_precision_is_itself() -> None:
    assert FLOATS == ("fp32", "fp16", "bf16")
    assert all(FLOAT_OF[each] == each for each in FLOATS)
    assert FLOAT_OF["int8"] == FLOAT_OF["fp8"] == "fp16"


def test_precisions_are_read_and_checked() -> None:
    assert read_precisions("fp16, INT8") == ("fp16", "int8")
    with pytest.raises(UsageError, match="unknown precision 'fp17': there are fp32, fp16, bf16"):
        read_precisions("fp32,fp17")
