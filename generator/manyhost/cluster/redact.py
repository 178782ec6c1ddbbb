"""Taking secrets out of texts and objects that leave the machine: pure functions."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from manyhost.checks.secrets import SHAPES, is_secret_name

GONE = "[redacted]"
_SHORTEST = 6  # a shorter value is no secret, and would be found inside words
# Of any length: what is planted, cut off or old looks like one too.
_TOKEN = re.compile(r"\bhf_(?=[a-z]*[A-Z0-9])[A-Za-z0-9]{4,}")
_HEADER = re.compile(
    r"((?:proxy-)?authorization|x-api-key)(\W{1,6})((?:bearer|basic|token|digest)\s+)?[^\s\"',;}\])]+", re.I
)
_BEARER = re.compile(r"\b(bearer|basic)(\s+)[A-Za-z0-9._~+/=-]{4,}", re.I)
_URL = re.compile(r"(\b[a-z][a-z0-9+.-]{0,20}://)[^\s/@:]+:[^\s/@]+@", re.I)
_VALUE = r"""\[[^\]\n]*\]|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|[^\s,;&"'(){}\[\]]+"""
# Names are bounded and begin at a word, so that a long line takes time by its length and not by its square.
_REST = r"[\w-]{0,60}"
# name=value, name: value, 'name': 'value', "name": ["value"], and --name value
_PAIR = re.compile(rf"""(?<![\w-])(?P<name>-*[A-Za-z]{_REST})(?P<sep>["']?\s*[:=]\s*)(?P<value>{_VALUE})""")
_FLAG = re.compile(rf"""(?<![\w-])(?P<name>--[a-z]{_REST})(?P<sep>\s+)(?P<value>(?!--){_VALUE})""")
_PRIVATE = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S)
# A copy of the object inside the object.
_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


def known(variables: Mapping[str, str]) -> tuple[str, ...]:
    """Return the secrets among environment variables, longest first, in each way that they are written."""
    plain = {
        value.strip()
        for name, value in variables.items()
        if is_secret_name(name) and len(value.strip()) >= _SHORTEST
    }
    coded = {base64.b64encode(value.encode()).decode() for value in plain}
    return tuple(sorted({*plain, *coded, *map(quote, plain)}, key=len, reverse=True))


def text(content: str, secrets: Iterable[str] = ()) -> str:
    """Return a text without what is, or looks like, a secret."""
    for secret in secrets:
        content = content.replace(secret, GONE)
    content = _PRIVATE.sub(GONE, content)
    content = _HEADER.sub(lambda match: f"{match[1]}{match[2]}{match[3] or ''}{GONE}", content)
    content = _BEARER.sub(lambda match: f"{match[1]}{match[2]}{GONE}", content)
    content = _URL.sub(lambda match: f"{match[1]}{GONE}@", content)
    content = _TOKEN.sub(GONE, SHAPES.sub(GONE, content))
    return _FLAG.sub(_pair, _PAIR.sub(_pair, content))


def _pair(match: re.Match[str]) -> str:
    if not is_secret_name(match["name"]) or match["value"] == GONE:
        return match[0]
    around = match["value"][0] if match["value"][0] in "\"'" else ""
    return f"{match['name']}{match['sep']}{around}{GONE}{around}"


def item(found: Any, secrets: Iterable[str] = ()) -> Any:
    """Return an object of the API without secrets, managed fields and copies of itself."""
    secrets = tuple(secrets)
    if isinstance(found, dict):
        kept = {key: value for key, value in found.items() if key not in {"managedFields", _APPLIED}}
        secret = isinstance(kept.get("name"), str) and is_secret_name(kept["name"])
        return {
            key: GONE
            if isinstance(value, str)
            and (is_secret_name(key.rpartition("/")[2]) or (secret and key == "value"))
            else item(value, secrets)
            for key, value in kept.items()
        }
    if isinstance(found, list):
        return _words([item(value, secrets) for value in found])
    return text(found, secrets) if isinstance(found, str) else found


def _words(values: list[Any]) -> list[Any]:
    """Words of a command line: the one behind --api-key is its value."""
    for index, value in enumerate(values[:-1]):
        following = values[index + 1]
        if (
            isinstance(value, str)
            and value.startswith("--")
            and "=" not in value
            and is_secret_name(value)
            and isinstance(following, str)
            and not following.startswith("--")
        ):
            values[index + 1] = GONE
    return values
