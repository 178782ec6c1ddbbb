"""No secret stands in the manifests: they are committed, mailed and pasted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Any

from manyhost.checks.finding import Finding
from manyhost.checks.objects import Object, paths, place

_FIX = "put it in a Secret and refer to it; if it was real, revoke it"

# Shapes of well-known credentials: Hugging Face, Google API and OAuth, AWS, GitHub, OpenAI style,
# private keys and bearer headers.
SHAPES = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}|\bAIza[0-9A-Za-z_-]{35}|\bya29\.[0-9A-Za-z_-]{10,}"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_[0-9A-Za-z]{36}|\bsk-[0-9A-Za-z_-]{20,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY|\b[Bb]earer\s+[0-9A-Za-z._~+/-]{16,}"
)
# One of these is in every text that has such a shape; looking for them is ten times faster.
_HINTS = (
    "hf_",
    "AIza",
    "ya29.",
    "AKIA",
    "ASIA",
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "ghr_",
    "sk-",
    "PRIVATE KEY",
    "earer ",
)
_SECRET_WORDS = frozenset({"TOKEN", "PASSWORD", "PASSWD", "SECRET", "CREDENTIAL", "CREDENTIALS"})
_KEY_WORDS = frozenset({"API", "ACCESS", "PRIVATE", "SECRET", "AUTH", "ENCRYPTION"})
# NAME_FILE and the like say where a secret is, not what it is.
_PLACE_WORDS = frozenset({"FILE", "PATH", "DIR", "NAME", "URL", "LIMIT", "COUNT", "SIZE"})


@lru_cache(1024)  # the same names stand in every container
def is_secret_name(name: str) -> bool:
    """Return whether a variable or flag of this name holds a secret."""
    words = name.upper().replace("-", "_").strip("_").split("_")
    if words[-1] in _PLACE_WORDS:
        return False
    if not _SECRET_WORDS.isdisjoint(words) or "APIKEY" in words:
        return True
    return any(b == "KEY" and a in _KEY_WORDS for a, b in pairwise(words))


def check(
    item: Object, values: list[Any], containers: list[tuple[str, Any]], shipped_scripts: frozenset[str]
) -> Iterator[Finding]:
    """Yield a finding for each literal of an object that is a secret by its shape or by its name.

    Args:
        item: An object of any shape.
        values: Its leaves.
        containers: Its containers, each with its place.
        shipped_scripts: Texts that hold no secret.
    """
    where = place(item)
    if item.get("kind") == "Secret":
        yield Finding("secret", where, "a Secret is rendered", "create it apart from the chart")
    texts = [leaf for leaf in values if isinstance(leaf, str) and leaf not in shipped_scripts]
    everything = "\n".join(texts)
    hints = [hint for hint in _HINTS if hint in everything]
    suspects = [text for text in texts if any(hint in text for hint in hints)] if hints else []
    if any(map(SHAPES.search, suspects)):
        for path, leaf in paths(item):
            if isinstance(leaf, str) and SHAPES.search(leaf):
                yield Finding("secret", f"{where} {path}", "looks like a credential", _FIX)
    for path, container in containers:
        if isinstance(container, dict):
            yield from _check_named(container, f"{where} {path}")


def _check_named(container: Object, where: str) -> Iterator[Finding]:
    environment = container.get("env")
    for item in environment if isinstance(environment, list) else []:
        if not isinstance(item, dict) or not item.get("value"):
            continue
        if is_secret_name(str(item.get("name"))):
            yield Finding("secret", f"{where}.env[{item['name']}]", "a literal secret", _FIX)
    for field in ("command", "args"):
        words = container.get(field)
        words = [w for w in words if isinstance(w, str)] if isinstance(words, list) else []
        for index, word in enumerate(words):
            name, equals, _ = word.partition("=")
            follows = equals or (index + 1 < len(words) and not words[index + 1].startswith("-"))
            if word.startswith("--") and is_secret_name(name) and follows:
                yield Finding("secret", f"{where}.{field}[{index}]", f"{name} with a literal", _FIX)
