"""Names of what we have at RunPod: whose it is, of which recipe, and how long it may live.

RunPod's description has no tags, and only a name can be changed while a cluster runs: the end of the name is
the lease, which the pods read (boot/lease.py) and `sweep` goes by.
"""

from __future__ import annotations

import re
import time
from calendar import timegm
from hashlib import sha256

PREFIX = "manyhost"
_UNTIL = re.compile(r"^(?P<stem>.+)-until-(?P<end>[0-9]{8}T[0-9]{4}Z)$")
_FORMAT = "%Y%m%dT%H%MZ"


def stem(owner: str, release: str) -> str:
    """Return the part of a name that stays: one owner has one thing of a release.

    Two dashes are in no owner's name: what `ann` has is not what `ann-b` has.
    """
    return f"{PREFIX}--{_owned(owner)}--{_plain(release)}"


def leased(name: str, until: float) -> str:
    """Return a name with its lease.

    Args:
        name: Its stem.
        until: Seconds since the epoch; it is rounded up to a minute.
    """
    return f"{name}-until-{time.strftime(_FORMAT, time.gmtime(-(-until // 60) * 60))}"


def parts(name: str) -> tuple[str, float | None]:
    """Return the stem of a name and when its lease ends; None when it has none, or one that is no time."""
    found = _UNTIL.match(name)
    if not found:
        return name, None
    try:
        return found["stem"], float(timegm(time.strptime(found["end"], _FORMAT)))
    except ValueError:  # renamed by hand: of a thing that is billed the stem counts all the same
        return found["stem"], None


def ours(name: str, owner: str = "") -> bool:
    """Say whether a name is one of manyhost's, or of one owner's."""
    return name.startswith(f"{PREFIX}--{_owned(owner)}--" if owner else f"{PREFIX}--")


def _owned(owner: str) -> str:
    """Return an owner as it stands in names; two who would look alike differ by a hash (`ann.b`, `ann b`)."""
    plain = _plain(owner)
    return plain if plain == owner else f"{plain}-{sha256(owner.encode()).hexdigest()[:6]}".lstrip("-")


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
