"""A training recipe: a TOML file, checked field by field into frozen dataclasses."""

from samihs_training.config.data import DataConfig
from samihs_training.config.reading import read_recipe, recipe_from
from samihs_training.config.recipe import Recipe
from samihs_training.config.stage import StageConfig

__all__ = ["DataConfig", "Recipe", "StageConfig", "read_recipe", "recipe_from"]
