"""Results as JSON."""

from __future__ import annotations

import json

import numpy as np

from samihs_training.jsontext import json_text


def test_what_json_has_no_words_for_is_null() -> None:
    given = {"a": [1.5, float("nan")], "b": {"c": (float("inf"), np.float64("nan"))}, "d": "NaN"}
    text = json_text(given)

    def refused(word: str) -> None:
        raise AssertionError(word)

    read = json.loads(text, parse_constant=refused)
    assert read == {"a": [1.5, None], "b": {"c": [None, None]}, "d": "NaN"}
    assert text.endswith("}\n")
