"""Typed inputs: environments, interconnects, models, engines, recipes and settings."""

from manyhost.catalog.loader import Catalog
from manyhost.catalog.settings import Origins, Resolved, resolve
from manyhost.catalog.types import Engine, Environment, Interconnect, Model, Recipe

__all__ = [
    "Catalog",
    "Engine",
    "Environment",
    "Interconnect",
    "Model",
    "Origins",
    "Recipe",
    "Resolved",
    "resolve",
]
