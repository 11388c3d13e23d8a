"""Evaluation of models: on phantoms, on patients, and compared across a grid of recipes.

``samihs-evaluate`` starts in ``cli.py``, ``samihs-train compare`` in ``compare.py``. The benchmarks
use the predictors and metrics defined here; training does not.
"""
