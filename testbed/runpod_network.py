"""The networks of pods that run: an overlay for each cluster, and ports that are forwarded."""

from __future__ import annotations

import ctypes
import socket
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

from testbed.errors import ClusterError
from testbed.system import alive, run, succeeds, wait_for

CIDR = "10.65.0.0/24"  # of every overlay: no two of them meet
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET
_LIBC = ctypes.CDLL(None, use_errno=True)


def ip(pid: int, *words: str) -> None:
    """Run ip in the network of a process.

    Raises:
        ClusterError: It was refused, or the process has ended.
    """
    run("nsenter", "-t", str(pid), "-n", "ip", *words)


def unplug(pid: int, link: str) -> None:
    """Remove both ends of a process's link, where there is one."""
    succeeds("nsenter", "-t", str(pid), "-n", "ip", "link", "del", link)


def wait_for_network(pid: int) -> None:
    """Wait until a process that asked for a network of its own has it, or has ended."""
    own = Path("/proc/self/ns/net").readlink()
    wait_for(
        "a network namespace",
        lambda: not alive(pid) or Path(f"/proc/{pid}/ns/net").readlink() != own,
        seconds=30,
        pause=0.005,
    )


def eth0(pid: int, label: str) -> tuple[str, str]:
    """Give a pod its way to this machine, and to nothing else; the link here is labelled.

    Returns:
        This machine's address and the pod's.

    Raises:
        ClusterError: The pod has ended, or there is no room for one more.
    """
    number, name = 0, "rp0"
    # Whoever makes the link has its number; others may be other stand-ins'.
    while not succeeds("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(pid)):
        number, name = number + 1, f"rp{number + 1}"
        if not alive(pid) or number >= 1 << 14:
            raise ClusterError("no link: the pod has ended, or there are too many")
    here, there = (f"172.30.{number >> 6}.{(number & 63) * 4 + end}" for end in (1, 2))
    forwarding = Path(f"/proc/sys/net/ipv4/conf/{name}/forwarding")
    if forwarding.read_text().strip() != "0":
        forwarding.write_text("0")  # or pods would reach each other through this machine
    run("ip", "addr", "add", f"{here}/30", "dev", name)
    run("ip", "link", "set", name, "alias", label, "up")
    ip(pid, "addr", "add", f"{there}/30", "dev", "eth0")
    ip(pid, "link", "set", "eth0", "up")
    ip(pid, "route", "add", "default", "via", here)
    return here, there


class Overlay:
    """A cluster's network: a bridge in a namespace that lasts as long as this process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            ["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        wait_for_network(self._process.pid)
        ip(self._process.pid, "link", "add", "overlay", "type", "bridge")
        ip(self._process.pid, "link", "set", "overlay", "up")

    def plug(self, pid: int, address: str) -> None:
        """Give a pod its ens1."""
        name = f"to-{address.rpartition('.')[2]}"
        unplug(self._process.pid, name)  # of this address's pod before, which may just be ending
        peer = ("type", "veth", "peer", "name", name, "netns", str(self._process.pid))
        ip(pid, "link", "add", "ens1", *peer)
        ip(self._process.pid, "link", "set", name, "master", "overlay", "up")
        ip(pid, "addr", "add", f"{address}/{CIDR.partition('/')[2]}", "dev", "ens1")
        ip(pid, "link", "set", "ens1", "up")

    def close(self) -> None:
        """Remove it."""
        self._process.kill()
        self._process.communicate()


def listen_in(pid: int, port: int) -> socket.socket:
    """Listen on loopback in the network of a process: a socket stays in the one where it was made.

    Raises:
        ClusterError: The process has ended, or the port is taken.
    """
    made: list[socket.socket] = []

    def enter() -> None:
        with suppress(OSError), Path(f"/proc/{pid}/ns/net").open() as network:
            if not _LIBC.setns(network.fileno(), _NEW_NETWORK):  # this thread alone
                made.append(socket.create_server(("127.0.0.1", port)))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if not made:
        raise ClusterError(f"cannot listen on 127.0.0.1:{port} in the network of process {pid}")
    return made[0]


class Forward:
    """Hands on what comes to a listening socket.

    Args:
        listener: It is this object's from now on.
        to: Where to, from this machine's network.
        source: The address to come from, "" for any; when it is gone, so is the way.
    """

    def __init__(self, listener: socket.socket, to: tuple[str, int], source: str = "") -> None:
        self.port = int(listener.getsockname()[1])
        self._listener, self._to, self._source = listener, to, source
        self._open = {listener}
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Stop listening and end what is open. Twice is safe."""
        for one in list(self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)  # who waits for it wakes up and closes it

    def _accept(self) -> None:
        with self._listener, suppress(OSError):
            while True:
                near = self._listener.accept()[0]
                threading.Thread(target=self._join, args=(near,), daemon=True).start()

    def _join(self, near: socket.socket) -> None:
        source = (self._source, 0) if self._source else None
        with near, suppress(OSError), socket.create_connection(self._to, 10, source) as far:
            far.settimeout(None)
            both = {near, far}
            self._open |= both
            back = threading.Thread(target=_pump, args=(far, near), daemon=True)
            back.start()
            _pump(near, far)
            back.join()
            self._open -= both


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
