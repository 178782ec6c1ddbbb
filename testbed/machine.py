"""A simulated machine: mount, process, network and host-name namespaces with one first process.

Everything that runs on the machine is a descendant of that first process, and every mount is in
its mount namespace. Ending it therefore ends all processes (containers too, as a power cut does)
and unmounts everything, whatever state they are in: there is nothing to clean up one by one.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from testbed.errors import ClusterError
from testbed.layout import MARK, Layout
from testbed.system import kill, processes, run, succeeds, wait_for

# The kubelet sets these for the whole kernel at start. Files of our own are mounted over them, so
# that this machine's settings stay as they are.
_SYSCTLS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
_LOG_THEN_RUN = 'log=$1; shift; setsid "$@" >>"$log" 2>&1 </dev/null &'


def _clean() -> list[str]:
    """Gives a plain environment: a proxy meant for this machine's network must not reach the cluster."""
    return ["env", "-i", f"PATH={os.environ['PATH']}", "HOME=/root"]


class Machine:
    """One machine of a cluster: the control plane or a container node."""

    def __init__(self, cluster: Layout, name: str, address: str) -> None:
        """Describes the machine; `boot` starts it.

        Args:
            cluster: the cluster that it belongs to.
            name: its host name, unique in the cluster.
            address: its IPv4 address on the cluster's bridge.
        """
        self.cluster, self.name, self.address = cluster, name, address
        self.folder = cluster.state / name
        self.link = f"{cluster.bridge}-{address.rpartition('.')[2]}"

    def pid(self) -> int | None:
        """The first process of the machine as this machine numbers it, None when it is off."""
        mine = [str(self.cluster.state), str(self.cluster.index), self.name]
        for pid, words in processes():
            if words[1:2] == [MARK] and words[2:5] == mine:
                return pid
        return None

    def _wait_for_pid(self) -> int:
        found: list[int] = []

        def look() -> bool:
            if (pid := self.pid()) is not None:
                found.append(pid)
            return bool(found)

        wait_for(f"machine {self.name}", look, seconds=10, pause=0.01)
        return found[0]

    def boot(self, pause: Path, routes: dict[str, str], *, default: str = "") -> None:
        """Starts the machine and connects it to the bridge.

        Args:
            pause: the program that is the machine's first process.
            routes: destination network to next hop.
            default: next hop for everything else; "" = none.

        Raises:
            ClusterError: a step was refused.
        """
        for folder in ("lib", "log", "sysctl"):
            (self.folder / folder).mkdir(parents=True, exist_ok=True)
        command = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--net", "--uts"]
        words = [str(pause), MARK, str(self.cluster.state), str(self.cluster.index), self.name]
        log = self.folder / "machine.log"
        run(*_clean(), "sh", "-c", _LOG_THEN_RUN, "sh", log, *command, *words)
        pid = self._wait_for_pid()
        succeeds("ip", "link", "del", self.link)  # of a machine that ended a moment ago
        peer = ["peer", "name", "eth0", "netns", str(pid)]
        run("ip", "link", "add", self.link, "type", "veth", *peer)
        run("ip", "link", "set", self.link, "master", self.cluster.bridge, "up")
        script = [
            "set -e",
            f"hostname {self.name}",
            "mount --make-rshared /",  # the kubelet propagates volume mounts into containers
            "mount -t tmpfs tmpfs /run",
            f"mount --bind {self.folder}/lib /var/lib",
            f"mount --bind {self.folder}/log /var/log",
        ]
        for name in _SYSCTLS:
            own = self.folder / "sysctl" / name.replace("/", ".")
            script.append(f"cat /proc/sys/{name} > {own}; mount --bind {own} /proc/sys/{name}")
        script += [
            "echo 1 > /proc/sys/net/ipv4/ip_forward",
            "ip link set lo up",
            f"ip addr add {self.address}/24 dev eth0",
            "ip link set eth0 up",
            *(f"ip route add {to} via {hop}" for to, hop in routes.items()),
        ]
        if default:
            script.append(f"ip route add default via {default}")
        self.run("sh", "-c", "\n".join(script))

    def _enter(self) -> list[str]:
        if (pid := self.pid()) is None:
            raise ClusterError(f"machine {self.name} of cluster {self.cluster.name} is off")
        return [*_clean(), "nsenter", "-t", str(pid), "--mount", "--uts", "--net", "--pid"]

    def run(self, *args: str | Path, stdin: str | None = None) -> str:
        """Runs a command on the machine, waits and returns its output."""
        return run(*self._enter(), *args, stdin=stdin)

    def start(self, name: str, *args: str | Path) -> None:
        """Starts a program on the machine; its output goes to `<machine folder>/<name>.log`."""
        log = self.folder / f"{name}.log"
        run(*self._enter(), "sh", "-c", _LOG_THEN_RUN, "sh", log, *args)

    def pids(self, program: Path) -> list[int]:
        """The processes of `program` on this machine."""
        if (first := self.pid()) is None:
            return []
        space = Path(f"/proc/{first}/ns/pid").readlink()
        found = []
        for pid, words in processes():
            try:
                here = Path(words[0]).name == program.name and Path(f"/proc/{pid}/ns/pid").readlink() == space
            except OSError:
                continue  # it ended meanwhile
            if here:
                found.append(pid)
        return found

    def cut_power(self) -> None:
        """Ends the machine at once, with everything on it. Twice is safe."""
        # First the cable: the kernel closes a dead process's connections, and the others would hear it.
        succeeds("ip", "link", "del", self.link)
        if (pid := self.pid()) is not None:
            kill([pid])


def remains(state: Path) -> tuple[list[int], set[int]]:
    """Processes and cluster indexes that belong to the state folder, found without its contents.

    Returns:
        The machines' first processes (and an `unshare` caught before it became one), and the
        indexes that they, or a bridge labelled with the folder, carry.
    """
    pids, indexes = [], set()
    for pid, words in processes():
        if MARK in words and words[words.index(MARK) + 1 :][:1] == [str(state)]:
            pids.append(pid)
            indexes.add(int(words[words.index(MARK) + 2]))
    listing = subprocess.run(["ip", "-j", "link", "show"], capture_output=True, check=False).stdout
    for link in json.loads(listing or b"[]"):
        if link.get("ifalias") == label(state):
            indexes.add(int(link["ifname"].removeprefix("mh")))
    return pids, indexes


def label(state: Path) -> str:
    """The alias of a cluster's bridge: how its remains are found when the folder is gone."""
    return f"{MARK} {state}"
