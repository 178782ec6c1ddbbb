"""Pure planning: from a resolved recipe to numbers, without any I/O of its own."""

from manyhost.plan.memory import Memory
from manyhost.plan.plan import Plan, make_plan
from manyhost.plan.roles import Role

__all__ = ["Memory", "Plan", "Role", "make_plan"]
