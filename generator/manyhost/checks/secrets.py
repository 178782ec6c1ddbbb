"""No secret stands in the manifests: they are committed, mailed and pasted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from manyhost.checks.finding import Finding
from manyhost.checks.objects import Context, Object, place

_FIX = "put it in a Secret and refer to it; if it was real, revoke it"

# Shapes of well-known credentials: Hugging Face, Google API and OAuth, AWS, GitHub, OpenAI style,
# private keys and bearer headers.
_SHAPES = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}|\bAIza[0-9A-Za-z_-]{35}|\bya29\.[0-9A-Za-z_-]{10,}"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_[0-9A-Za-z]{36}|\bsk-[0-9A-Za-z_-]{20,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY|\b[Bb]earer\s+[0-9A-Za-z._~+/-]{16,}"
)
_SECRET_WORDS = frozenset({"TOKEN", "PASSWORD", "PASSWD", "SECRET", "CREDENTIAL", "CREDENTIALS"})
_KEY_WORDS = frozenset({"API", "ACCESS", "PRIVATE", "SECRET", "AUTH", "ENCRYPTION"})
# NAME_FILE and the like say where a secret is, not what it is.
_PLACE_WORDS = frozenset({"FILE", "PATH", "DIR", "NAME", "URL", "LIMIT", "COUNT", "SIZE"})


def is_secret_name(name: str) -> bool:
    """Return whether a variable or flag of this name holds a secret."""
    words = name.upper().replace("-", "_").strip("_").split("_")
    if words[-1] in _PLACE_WORDS:
        return False
    if not _SECRET_WORDS.isdisjoint(words) or "APIKEY" in words:
        return True
    return any(b == "KEY" and a in _KEY_WORDS for a, b in pairwise(words))


def check(context: Context) -> Iterator[Finding]:
    """Yield a finding for each literal that is a secret by its shape or by its name."""
    for item in context.objects:
        where = place(item)
        if item.get("kind") == "Secret":
            yield Finding("secret", where, "a Secret is rendered", "create it apart from the chart")
        for path, node in _walk(item, "", context.shipped_scripts):
            if isinstance(node, str):
                yield Finding("secret", f"{where} {path}", "looks like a credential", _FIX)
            else:
                yield from _check_named(node, f"{where} {path}")


def _walk(node: Any, path: str, accepted: frozenset[str]) -> Iterator[tuple[str, Any]]:
    """Yield the strings that look like credentials, and containers."""
    if isinstance(node, dict):
        if "image" in node or "env" in node or "args" in node:
            yield path, node
        for key, value in node.items():
            if isinstance(value, str | dict | list):
                yield from _walk(value, f"{path}.{key}" if path else str(key), accepted)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            if isinstance(value, str | dict | list):
                yield from _walk(value, f"{path}[{index}]", accepted)
    elif len(node) > 15 and _SHAPES.search(node) and node not in accepted:
        yield path, node


def _check_named(container: Object, where: str) -> Iterator[Finding]:
    environment = container.get("env")
    for item in environment if isinstance(environment, list) else []:
        if not isinstance(item, dict) or not item.get("value"):
            continue
        if is_secret_name(str(item.get("name"))):
            yield Finding("secret", f"{where}.env[{item['name']}]", "a literal secret", _FIX)
    words = container.get("args")
    words = [w for w in words if isinstance(w, str)] if isinstance(words, list) else []
    for index, word in enumerate(words):
        name, equals, _ = word.partition("=")
        follows = equals or (index + 1 < len(words) and not words[index + 1].startswith("-"))
        if word.startswith("--") and is_secret_name(name) and follows:
            yield Finding("secret", f"{where}.args[{index}]", f"{name} with a literal", _FIX)
