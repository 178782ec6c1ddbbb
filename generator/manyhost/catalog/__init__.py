"""Typed inputs: environments, interconnects, models, engines, recipes and settings."""

from manyhost.catalog.engine import Engine
from manyhost.catalog.environment import Environment
from manyhost.catalog.interconnect import Interconnect
from manyhost.catalog.loader import Catalog
from manyhost.catalog.model import Model
from manyhost.catalog.recipe import Recipe
from manyhost.catalog.settings import Origins, Resolved, resolve

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
