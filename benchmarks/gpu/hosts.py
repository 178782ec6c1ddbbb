"""Runs a command as a host of its own: python hosts.py NAME ADDRESS [PEER_ADDRESS] -- COMMAND...

The command gets its own processes, /dev/shm, host name and IPC; it is process 1, as in a
container, and everything it started dies with it. With PEER_ADDRESS it also gets its own network: a
veth pair called `twohost0` at both ends, ADDRESS inside and PEER_ADDRESS outside. Without, it stays in
the network it was started from. Needs Linux, root, Python 3.12 and pyroute2.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
from typing import Any

LINK = "twohost0"
MS_REC, MS_PRIVATE, PR_SET_PDEATHSIG = 0x4000, 0x40000, 1
LIBC = ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> None:
    """A killed parent takes this process along."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def mount(kind: str, target: str, flags: int = 0, options: str = "") -> None:
    """mount(2).

    Raises:
        OSError: it was refused.
    """
    words = [word.encode() for word in (kind, target, kind)]
    if LIBC.mount(*words, flags, options.encode()):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def up(address: str) -> None:
    """Gives this end of the link its address."""
    from pyroute2 import IPRoute

    with IPRoute() as net:
        for name in ("lo", LINK):
            index = net.link_lookup(ifname=name)[0]
            if name == LINK:
                net.addr("add", index=index, address=address, prefixlen=24)
            net.link("set", index=index, state="up")


def connect(child: int, address: str) -> None:
    """Makes the link between this network and the child's."""
    from pyroute2 import IPRoute

    with IPRoute() as net:
        for index in net.link_lookup(ifname=LINK):
            net.link("del", index=index)
        far: dict[str, Any] = {"ifname": LINK, "net_ns_pid": child}
        net.link("add", ifname=LINK, kind="veth", peer=far)
    up(address)


def cut() -> None:
    """Takes the link down, as if the cable were pulled: no process notices by itself."""
    from pyroute2 import IPRoute

    with IPRoute() as net:
        net.link("set", index=net.link_lookup(ifname=LINK)[0], state="down")


def become_host(name: str, command: list[str], own_network: bool) -> None:
    """Process 1 of the new host: its own mounts and name, then the command."""
    die_with_parent()
    mount("none", "/", MS_REC | MS_PRIVATE)
    mount("proc", "/proc")
    if own_network:
        mount("sysfs", "/sys")  # its list of interfaces is that of the network it was mounted in
    mount("tmpfs", "/dev/shm", options="size=32g")
    socket.sethostname(name)
    os.execvp(command[0], command)


def main() -> None:
    """Reads the command line, sets the host up, and ends as the command ends."""
    split = sys.argv.index("--")
    name, address, *peer = sys.argv[1:split]
    made_r, made_w = os.pipe()
    linked_r, linked_w = os.pipe()
    child = os.fork()
    if child == 0:
        die_with_parent()
        os.unshare(os.CLONE_NEWNS | os.CLONE_NEWUTS | os.CLONE_NEWIPC | os.CLONE_NEWPID)
        if peer:
            os.unshare(os.CLONE_NEWNET)
        os.write(made_w, b"1")
        os.read(linked_r, 1)
        if peer:
            up(address)
        inner = os.fork()
        if inner == 0:
            become_host(name, sys.argv[split + 1 :], bool(peer))
        os._exit(os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1]) & 0xFF)
    os.read(made_r, 1)
    if peer:
        connect(child, peer[0])
    os.write(linked_w, b"1")
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)


if __name__ == "__main__":
    main()
