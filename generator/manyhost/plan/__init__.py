"""Pure planning: from a resolved recipe to numbers, without any I/O."""

from manyhost.plan.plan import Memory, Plan, make_plan

__all__ = ["Memory", "Plan", "make_plan"]
