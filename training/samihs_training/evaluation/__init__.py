"""What a model is worth: on phantoms, on patients, and beside others of a grid of recipes.

``samihs-evaluate`` begins in ``cli.py``, ``samihs-train compare`` in ``compare.py``. The benchmarks
take predictors and metrics from here; no training does.
"""
