"""What clients may ask for, and what is made of a completion for a prefill and for a decode engine.

Pure functions. A body is cut at its outermost keys only: what a value holds is passed on as the client
wrote it, byte for byte, and a prompt of a million tokens costs no more than a look at its length.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import msgspec

Fields = dict[str, msgspec.Raw]

COMPLETIONS = frozenset(("/v1/chat/completions", "/v1/completions"))
# Everything else is 404: among the engine's other paths are some that stop it or change its weights.
PATHS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(COMPLETIONS, ("POST", "OPTIONS")),
    "/v1/responses": ("POST", "OPTIONS"),
    "/v1/messages": ("POST", "OPTIONS"),
    "/v1/messages/count_tokens": ("POST", "OPTIONS"),
    "/v1/models": ("GET", "OPTIONS"),
    "/tokenize": ("POST", "OPTIONS"),
    "/detokenize": ("POST", "OPTIONS"),
    "/version": ("GET",),
}
# Where caches are fetched from is never a client's to say. vLLM takes these fields on every path that
# makes tokens, and lays vllm_xargs over them (vllm/entrypoints/openai/*/protocol.py).
_TRANSFER = re.compile(r"\w*_transfer_params", re.ASCII)
_EXTRA = "vllm_xargs"
# Of no use for one token that nobody reads, or in contradiction to it.
_NOT_FOR_PREFILL = frozenset(
    ("stream_options", "min_tokens", "logprobs", "top_logprobs", "n", "best_of", "return_token_ids")
)
_FOR_PREFILL = {
    "max_tokens": msgspec.Raw(b"1"),
    "stream": msgspec.Raw(b"false"),
    "kv_transfer_params": msgspec.Raw(b'{"do_remote_decode":true}'),
}
_NO = frozenset((b"null", b"false", b"0"))
_ONE = frozenset((b"null", b"1"))
_SMALL = 1 << 14  # bytes below which a value is copied into the piece before it
_PIECE = 1 << 16


class NotAnObject(ValueError):
    """A body that is no JSON object; the text says where."""


def fields_of(body: bytes) -> Fields:
    """Cut a body at its outermost keys, and leave out what only the router may say.

    Raises:
        NotAnObject: It is no JSON object.
    """
    fields = _cut(body)
    _forget_transfers(fields)
    extra = fields.get(_EXTRA)
    if extra is not None and bytes(memoryview(extra)[:1]) == b"{":
        below = _cut(extra)
        _forget_transfers(below)
        fields[_EXTRA] = msgspec.Raw(b"".join(pieces(below)))
    return fields


def divisible(fields: Fields) -> bool:
    """Whether a completion is one prompt with one answer: only those have one KV cache to hand over."""
    prompt = bytes(memoryview(fields["prompt"])[:64]) if "prompt" in fields else b""
    # Token ids are one prompt, texts or lists of token ids are several.
    many = prompt[:1] == b"[" and prompt[1:].lstrip()[:1] in {b'"', b"["}
    several = any(_text(fields, key) not in _ONE for key in ("n", "best_of"))
    # Log-probabilities of the prompt need the prompt's own pass.
    whole = any(_text(fields, key) not in _NO for key in ("echo", "use_beam_search"))
    given = any(_text(fields, key) != b"null" for key in ("prompt_logprobs", "prompt_embeds"))
    return not (many or several or whole or given)


def for_prefill(fields: Fields) -> Fields:
    """Return what a prefill engine is asked: to read the prompt, and to keep its KV cache."""
    asked = {key: value for key, value in fields.items() if key not in _NOT_FOR_PREFILL}
    asked.update(_FOR_PREFILL)
    if "max_completion_tokens" in asked:
        asked["max_completion_tokens"] = _FOR_PREFILL["max_tokens"]
    return asked


def for_decode(fields: Fields, place: msgspec.Raw | None) -> Fields:
    """Return what a decode engine is asked; `place` says where the prompt's KV cache is."""
    return fields if place is None else {**fields, "kv_transfer_params": place}


class _Prefilled(msgspec.Struct):
    kv_transfer_params: msgspec.Raw = msgspec.Raw(b"null")


def place_of(answer: bytes) -> msgspec.Raw | None:
    """Return where a prefill engine says that the KV cache is; None when it does not say."""
    try:
        place = bytes(msgspec.json.decode(answer, type=_Prefilled).kv_transfer_params)
    except (msgspec.MsgspecError, RecursionError):
        return None
    return msgspec.Raw(place) if place.startswith(b"{") else None


def length_of(fields: Fields) -> int:
    """Return the bytes that pieces() yields."""
    return sum(len(piece) for piece in pieces(fields))


def pieces(fields: Fields) -> Iterator[bytes | memoryview]:
    """Yield a body piece by piece, each of at most 64 KiB or so: never is a whole body copied."""
    small = bytearray(b"{")
    for number, (key, value) in enumerate(fields.items()):
        small += b"," if number else b""
        small += msgspec.json.encode(key) + b":"
        view = memoryview(value)
        if len(view) < _SMALL:
            small += view
            continue
        yield bytes(small)
        small.clear()
        for begin in range(0, len(view), _PIECE):
            yield view[begin : begin + _PIECE]
    yield bytes(small) + b"}"


def _cut(body: bytes | msgspec.Raw) -> Fields:
    try:
        return msgspec.json.decode(body, type=Fields)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise NotAnObject(str(error)) from None


def _forget_transfers(fields: Fields) -> None:
    for key in [key for key in fields if _TRANSFER.fullmatch(key)]:
        del fields[key]


def _text(fields: Fields, key: str) -> bytes:
    """Return the text of a value that is short when it is what is hoped for."""
    return bytes(memoryview(fields[key])[:16]) if key in fields else b"null"
