"""The control channel: who may speak, and what one connection carries; bytes in, messages out.

Each line is a JSON object. Both sides begin with a nonce, prove with the next line that they know the
key and mean the same release, group and generation, and sign every line after that. Without a key the
proof is made with an empty one: then it keeps strangers and other groups apart by mistake, not by
intent. A line that is too long, no JSON, or not signed closes the connection and has no other effect.
"""

from __future__ import annotations

import hmac
import json
from typing import Any, NamedTuple

from manyhost_group import Limits, Peer

VERSION = 1
LONGEST_LINE = 8192  # bytes; a message has some 600


class Refused(Exception):
    """The other side is not a member of this group; the text says why, in words for a log."""


class Identity(NamedTuple):
    """What all members of a group have in common, and no others.

    Attributes:
        group: Names release and group.
        generation: Of the group's template; members of two generations never work together.
        key: Shared secret; empty without one.
    """

    group: str
    generation: str
    key: bytes


class Channel:
    """One side of one connection.

    Args:
        identity: The group's.
        size: Members of the group.
        rank: The own rank; a worker speaks to the leader only, the leader to workers.
        nonce: A number used once: 32 hexadecimal digits.
    """

    def __init__(self, identity: Identity, size: int, rank: int, nonce: str) -> None:
        self.identity = identity
        self.size = size
        self.rank = rank
        self.nonce = nonce
        self.peer = -1  # rank of the other side, proven once `ready`
        self.ready = False
        self._theirs = ""
        self._session = b""
        self._sent = self._taken = 0
        self._rest = b""

    def hello(self) -> bytes:
        """The first line."""
        return _line({"manyhost": VERSION, "rank": self.rank, "nonce": self.nonce})

    def take(self, data: bytes) -> tuple[bytes, list[dict[str, Any]]]:
        """Take in what has arrived; return what to send at once, and the messages of the other side.

        Raises:
            Refused: The connection is of no use.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LONGEST_LINE:
            raise Refused("a line without an end")
        answer, messages = b"", []
        for line in lines:
            found = _parse(line)
            if not self._theirs:
                answer += self._greeted(found)
            elif not self.ready:
                self._proved(found)
            else:
                messages.append(self._message(found))
        return answer, messages

    def say(self, message: dict[str, Any]) -> bytes:
        """A signed message."""
        body = json.dumps(message)
        self._sent += 1
        return _line({"body": body, "mac": self._mac(self.rank, self._sent, body)})

    def _greeted(self, found: dict[str, Any]) -> bytes:
        rank, nonce = found.get("rank"), found.get("nonce")
        if found.get("manyhost") != VERSION or type(rank) is not int or not isinstance(nonce, str):
            raise Refused("not a member's greeting")
        if not (0 < rank < self.size if self.rank == 0 else rank == 0) or not 16 <= len(nonce) <= 64:
            raise Refused(f"rank {rank!r:.20} has no place here")
        self.peer, self._theirs = rank, nonce
        both = f"{self.nonce}{nonce}" if self.rank == 0 else f"{nonce}{self.nonce}"
        bound = f"{VERSION}\n{self.identity.group}\n{self.identity.generation}\n{both}"
        self._session = hmac.digest(self.identity.key, bound.encode(), "sha256")
        return _line({"proof": self._mac(self.rank, 0, "proof")})

    def _proved(self, found: dict[str, Any]) -> None:
        proof = found.get("proof")
        if not isinstance(proof, str) or not _equal(proof, self._mac(self.peer, 0, "proof")):
            raise Refused(f"rank {self.peer} has another key, release, group or generation")
        self.ready = True

    def _message(self, found: dict[str, Any]) -> dict[str, Any]:
        body, mac = found.get("body"), found.get("mac")
        self._taken += 1
        if not isinstance(body, str) or not isinstance(mac, str):
            raise Refused("a line that is not signed")
        if not _equal(mac, self._mac(self.peer, self._taken, body)):
            raise Refused("a line with a wrong signature")
        return _parse(body.encode(errors="replace"))

    def _mac(self, rank: int, number: int, text: str) -> str:
        data = f"{rank}\n{number}\n{text}".encode(errors="replace")  # JSON can spell half a character
        return hmac.digest(self._session, data, "sha256").hex()


def _equal(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(errors="replace"), other.encode())


def _line(found: dict[str, Any]) -> bytes:
    return json.dumps(found, separators=(",", ":")).encode() + b"\n"


def _parse(line: bytes) -> dict[str, Any]:
    """A line's object.

    Raises:
        Refused: It is none.
    """
    if len(line) > LONGEST_LINE:
        raise Refused("a line that is too long")
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        raise Refused("a line that is no JSON") from None
    if not isinstance(found, dict):
        raise Refused("a line that is no object")
    return found


def peer_of(message: dict[str, Any], heard: float) -> Peer:
    """What a member says of itself.

    Raises:
        Refused: It lacks something, or has it in another type.
    """
    texts = {
        name: message.get(name, "") for name in ("run", "state", "attempt", "reason", "bound", "address")
    }
    idle, percent = message.get("idle", 0.0), message.get("percent", -1)
    if not all(isinstance(text, str) for text in texts.values()) or type(percent) is not int:
        raise Refused("a message of another kind")
    if not isinstance(idle, int | float) or not texts["run"]:
        raise Refused("a message of another kind")
    moved = heard - idle if 0 <= idle < 1e9 else 0.0
    hopeless = message.get("hopeless") is True
    return Peer(**texts, hopeless=hopeless, heard=heard, moved=moved, percent=percent)


def takes_seat(limits: Limits, holder: Peer | None, run: str, now: float) -> bool:
    """Whether a connection speaks for its rank: another run only when the last one has fallen silent.

    Two processes of one rank are there when a pod is replaced while the old one ends.
    """
    return holder is None or holder.run == run or now - holder.heard > limits.silent
