"""Which engine gets a request: the fewest requests in flight, and no engine that does not answer.

Pure: times come in as numbers, nothing here waits, opens or sends.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

Address = tuple[str, int]

FAILURES = 3  # answers in a row that say nothing but "failed", until an engine is left alone
FIRST_PROBE_SECONDS = 1.0
LAST_PROBE_SECONDS = 15.0  # each probe that fails doubles the wait, up to this


@dataclass(eq=False)
class Backend:
    """One leader.

    Attributes:
        address: Where it listens.
        in_flight: Requests of this router that it has.
        failures: Failed answers in a row.
        open: Whether the breaker keeps requests away from it.
        probe_at: When it is to be probed next, while open.
        wait: Seconds between the last probe and the next.
        probing: Whether a probe is on its way.
        moved_at: When it last answered, or got its first request after it had none.
        known: Whether discovery still lists it.
        picked: When it was last chosen, in choices.
    """

    address: Address
    in_flight: int = 0
    failures: int = 0
    open: bool = False
    probe_at: float = 0.0
    wait: float = 0.0
    probing: bool = False
    moved_at: float = 0.0
    known: bool = True
    picked: int = 0

    @property
    def name(self) -> str:
        """host:port, as it stands in URLs."""
        host, port = self.address
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass
class Pool:
    """The leaders of one role."""

    role: str
    backends: dict[Address, Backend] = field(default_factory=dict)
    choices: int = 0

    def update(self, addresses: Iterable[Address]) -> None:
        """Take over what discovery found; an engine that has gone keeps the requests it has."""
        found = set(addresses)
        for address in found - self.backends.keys():
            self.backends[address] = Backend(address)
        for backend in list(self.backends.values()):
            backend.known = backend.address in found
            if not backend.known and not backend.in_flight:
                del self.backends[backend.address]

    @property
    def known(self) -> list[Backend]:
        """The leaders that discovery lists."""
        return [backend for backend in self.backends.values() if backend.known]

    def choose(self, *, but: Collection[Backend] = (), desperate: bool = False) -> Backend | None:
        """Return the leader with the fewest requests in flight; of equals the one that waits longest.

        Args:
            but: Leaders that this request has tried.
            desperate: Take one whose breaker is open when there is no other.
        """
        left = [backend for backend in self.known if backend not in but]
        closed = [backend for backend in left if not backend.open]
        candidates = closed or (left if desperate else [])
        if not candidates:
            return None
        best = min(candidates, key=lambda backend: (backend.in_flight, backend.picked))
        self.choices += 1
        best.picked = self.choices
        return best

    def begin(self, backend: Backend, now: float) -> None:
        """A request goes to a leader."""
        if not backend.in_flight:
            backend.moved_at = now
        backend.in_flight += 1

    def end(self, backend: Backend) -> None:
        """A request has left it."""
        backend.in_flight -= 1
        if not backend.known and not backend.in_flight:
            self.backends.pop(backend.address, None)

    def answered(self, backend: Backend, now: float) -> bool:
        """It has answered; return whether the breaker closes with that."""
        closes = backend.open
        backend.moved_at = now
        backend.failures = 0
        backend.open = False
        return closes

    def failed(self, backend: Backend, now: float, *, lost: bool) -> bool:
        """It has failed; return whether the breaker opens with that.

        Args:
            backend: The leader.
            now: The time.
            lost: No answer at all, which counts as many.
        """
        backend.moved_at = now
        backend.failures += FAILURES if lost else 1
        if backend.open or backend.failures < FAILURES:
            return False
        backend.open = True
        backend.wait = FIRST_PROBE_SECONDS
        backend.probe_at = now + backend.wait
        return True

    def due(self, now: float) -> list[Backend]:
        """Return the leaders to probe now."""
        return [b for b in self.known if b.open and not b.probing and now >= b.probe_at]

    def unanswered(self, backend: Backend, now: float) -> None:
        """A probe has failed: the next one comes later."""
        backend.wait = min(2 * backend.wait, LAST_PROBE_SECONDS)
        backend.probe_at = now + backend.wait

    def stalled(self, now: float, seconds: float) -> list[Backend]:
        """Return the leaders that have had requests for so long and answered none of them."""
        return [b for b in self.backends.values() if b.in_flight and now - b.moved_at >= seconds]
