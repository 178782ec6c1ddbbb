"""From a recipe to a running, checked and measured multi-host LLM service."""

__version__ = "0.1.0"
