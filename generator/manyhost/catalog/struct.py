"""What all inputs under values/ and recipes/ have in common.

Every struct is frozen and refuses unknown keys, so a typing error in a file is an error with the key's name,
never a silently ignored line. Units are part of the field names.

The modules of these shapes have no `from __future__ import annotations`: msgspec would compile each
annotation from its text, which takes 3 ms in each process.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

Name = Annotated[str, Meta(pattern=r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$")]
Positive = Annotated[int, Meta(ge=1)]
Count = Annotated[int, Meta(ge=0)]
Amount = Annotated[float, Meta(ge=0)]
Date = Annotated[str, Meta(pattern=r"^\d{4}-\d{2}-\d{2}$")]
Path = Annotated[str, Meta(pattern=r"^/")]
# A rule of checks.hardening, of a container or of the pod ("user in vllm"), and why a place does without it.
Exemptions = dict[
    Annotated[str, Meta(pattern=r"^[a-z-]+( in [a-z0-9-]+)?$")], Annotated[str, Meta(min_length=10)]
]


class Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all inputs: immutable and closed."""
