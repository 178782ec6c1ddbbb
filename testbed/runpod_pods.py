"""Pods that run: each is a process on a host of its own, with RunPod's interfaces and mounts.

Everything that a pod is lives in its namespaces and ends with its first process: files, mounts and both
ends of its links. That process ends with the stand-in, however the stand-in ends. So nothing is ever left.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from testbed.errors import ClusterError, MissingError
from testbed.runpod_network import Forward, Overlay, eth0, ip, listen_in, unplug, wait_for_network
from testbed.system import run

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PROGRAMS = ("ip", "nsenter", "pivot_root", "setpriv", "unshare")
_NAMESPACES = ("--mount", "--net", "--pid", "--uts", "--ipc")

# The system is this machine's, and what the pod writes to it stays in the pod's memory. Nothing else of this
# machine is seen, but what is bound. Takes: a folder, a host name, binds as `ro|rw source target`, `--` and
# the pod's command, which it becomes when it is told the pod's address.
_SETUP = """
set -e
folder=$1 name=$2; shift 2
mount --make-rprivate /
mount -t tmpfs -o mode=755 pod "$folder/root"
mount -t tmpfs pod "$folder/written"
cd "$folder/root"
for top in etc usr var; do
  mkdir "$top" "$folder/written/$top" "$folder/written/$top.work"
  where="upperdir=$folder/written/$top,workdir=$folder/written/$top.work"
  mount -t overlay -o "lowerdir=/$top,$where" pod "$top"
done
for top in bin lib lib32 lib64 sbin; do [ ! -e "/$top" ] || cp -P "/$top" .; done
mkdir dev home mnt old opt proc root run srv sys tmp
chmod 1777 tmp
chmod 700 root
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 dev dev
mkdir dev/shm dev/pts
for one in null zero full random urandom tty; do : > "dev/$one"; mount --bind "/dev/$one" "dev/$one"; done
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
mount -t tmpfs -o mode=1777,size=2g shm dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
while [ "$1" != -- ]; do
  if [ -d "$2" ]; then mkdir -p ".$3"; else mkdir -p ".${3%/*}"; : > ".$3"; fi
  mount --bind "$2" ".$3"
  [ "$1" = rw ] || mount -o remount,bind,ro ".$3"
  shift 3
done
shift
hostname "$name"
echo "127.0.0.1 localhost" > etc/hosts
: > etc/resolv.conf
pivot_root . old
cd /
umount -l old
rmdir old
read -r address
echo "$address $name" >> etc/hosts
exec "$@" < /dev/null
"""


@dataclass(frozen=True)
class Work:
    """What a pod is made to run.

    Attributes:
        command: Its first process.
        env: All of its environment, but for PATH and HOME.
        mounts: Path in the pod to a folder of this machine, where the pod may write.
        ports: Those that are reached from outside.
        cluster: The cluster that it is a member of, and its address there.
    """

    command: list[str]
    env: dict[str, str]
    mounts: dict[str, Path]
    ports: list[int]
    cluster: tuple[str, str] | None = None


class Host:
    """One pod from its start to its end.

    Attributes:
        status: As RunPod says it.
        ports: Port in the pod to port of this machine's 127.0.0.1.
        lines: Its output, each line with the time when it came.
        ended: When it ended, by the clock given.
    """

    def __init__(self, pods: Pods, identity: str, work: Work, clock: Callable[[], float]) -> None:
        self.status, self.ports = "PROVISIONING", dict[int, int]()
        self.lines: list[tuple[str, str]] = []
        self.ended: float | None = None
        self._pods, self._identity, self._work, self._clock = pods, identity, work, clock
        self._relays: list[Forward] = []  # out of the pod
        self._forwards: list[Forward] = []  # into it
        self._process: subprocess.Popen[bytes] | None = None
        self._connected = threading.Event()
        self._dead = False
        # The kernel ends a pod with the thread that started it: this one lives as long as the pod.
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    @property
    def first(self) -> int:
        """The pod's process 1 as this machine numbers it; 0 where there is none."""
        pid = self._process.pid if self._process else 0
        with suppress(OSError, IndexError):
            return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
        return 0

    def die(self) -> None:
        """Pull the cables, then the power: nobody hears a goodbye."""
        self._dead = True
        self._end()

    def stop(self) -> None:
        """End it, with its mounts, links and forwarded ports. Twice is safe."""
        self._end()
        for forward in self._forwards:
            forward.close()

    def _end(self) -> None:
        self._connected.wait()  # its links have names that would be others' if it ended while they are made
        if self._process and self._process.poll() is None:
            for link in ("ens1", "eth0"):
                unplug(self._process.pid, link)
            # Process 1 ends after all others of the pod, and the one outside, which waits for it, at last.
            with suppress(ProcessLookupError):
                os.kill(self.first or self._process.pid, signal.SIGKILL)
        self._thread.join()

    def _live(self) -> None:
        last = "ERROR"
        try:
            last = self._run()
        except OSError as error:  # the environment is too large, for one
            self._say(f"the pod cannot start: {error}")
        self._connected.set()
        for forward in self._relays + ([] if self._dead else self._forwards):
            forward.close()
        self.ended, self.ports = self._clock(), {}
        self.status = last

    def _run(self) -> str:
        """Run the pod to its end; return what it is then."""
        folder = self._pods.folder / "pods" / self._identity
        for name in ("root", "written"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        binds = [("ro", str(source), target) for target, source in self._pods.binds.items()]
        binds += [("rw", str(source), target) for target, source in self._work.mounts.items()]
        words = [str(folder), self._identity, *(word for bind in binds for word in bind), "--"]
        outside = ["setpriv", "--pdeathsig", "KILL", "unshare", *_NAMESPACES, "--fork", "--kill-child=KILL"]
        with (
            # The environment is not in the command line, where everybody would see it.
            subprocess.Popen(
                [*outside, "sh", "-c", _SETUP, "pod", *words, *self._work.command],
                env={"PATH": _PATH, "HOME": "/root", **self._work.env},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            ) as process,
            (folder / "log").open("ab", buffering=0) as log,
        ):
            self._process, self.status, last = process, "STARTING", "EXITED"
            assert process.stdin
            assert process.stdout
            try:
                address = self._connect(process.pid)
                process.stdin.write(f"{address}\n".encode())
                process.stdin.close()
                self.status = "RUNNING"
            except (ClusterError, OSError) as error:
                process.kill()
                self._say(f"the pod cannot start: {error}")
                last = "ERROR"
            self._connected.set()
            for line in process.stdout:
                log.write(line)
                self._say(line.decode(errors="replace").rstrip("\n"))
        return last

    def _say(self, line: str) -> None:
        self.lines.append((datetime.now(UTC).isoformat(timespec="milliseconds")[:-6] + "Z", line))

    def _connect(self, pid: int) -> str:
        """Make the pod's links and ports; returns its address on eth0."""
        wait_for_network(pid)
        here, address = eth0(pid, f"{self._pods.folder} {self._identity}")
        ip(pid, "link", "set", "lo", "up")
        if self._work.cluster:
            cluster, own = self._work.cluster
            self._pods.overlay(cluster).plug(pid, own)
        for port in self._pods.reach:
            self._relays.append(Forward(listen_in(pid, port), ("127.0.0.1", port)))
        for port in self._work.ports:
            forward = Forward(socket.create_server(("127.0.0.1", 0)), (address, port), here)
            self._forwards.append(forward)
            self.ports[port] = forward.port
        return address


class Pods:
    """All pods of one account.

    Args:
        folder: Takes `volumes/<id>`, which are the network volumes, and `pods/<id>/log`.
        binds: What every pod sees of this machine beside its system: path in the pod to path here.

    Attributes:
        reach: Ports of this machine's 127.0.0.1 that are at 127.0.0.1 in every pod too, so that a URL
            holds in both; the stand-in adds its own.
        hosts: The pods that were started, those that ended too.

    Raises:
        MissingError: This machine cannot run pods.
    """

    def __init__(self, folder: Path, binds: Mapping[str, Path] | None = None) -> None:
        missing = [name for name in _PROGRAMS if not shutil.which(name)]
        if os.geteuid() or missing:
            raise MissingError(
                f"pods that run need root, iproute2 and util-linux; missing: {missing or 'root'}"
            )
        self.folder, self.binds = folder, dict(binds or {})
        self.reach: list[int] = []
        self.hosts: dict[str, Host] = {}
        self._overlays: dict[str, Overlay] = {}
        self._lock = threading.Lock()

    def volume(self, identity: str) -> Path:
        """Return the folder that is a network volume, or a pod's own."""
        folder = self.folder / "volumes" / identity
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def erase(self, identity: str) -> None:
        """Remove a volume, with what is on it."""
        shutil.rmtree(self.folder / "volumes" / identity, ignore_errors=True)

    def start(self, identity: str, work: Work, clock: Callable[[], float]) -> None:
        """Start a pod; the one that runs under this name ends first."""
        self.stop(identity)
        self.hosts[identity] = Host(self, identity, work, clock)

    def stop(self, identity: str) -> None:
        """End a pod, if there is one."""
        if host := self.hosts.get(identity):
            host.stop()

    def kill(self, identity: str) -> None:
        """Let a pod's machine die: connections to it hang."""
        self.hosts[identity].die()

    def run(self, identity: str, *command: str) -> str:
        """Run a command in a pod and return what it prints.

        Raises:
            ClusterError: It failed.
        """
        enter = ("nsenter", "-t", str(self.hosts[identity].first), *_NAMESPACES)
        return run(*enter, "env", "-i", f"PATH={_PATH}", "HOME=/root", *command)

    def overlay(self, cluster: str) -> Overlay:
        """Return the network of a cluster; its first member makes it."""
        with self._lock:
            if cluster not in self._overlays:
                self._overlays[cluster] = Overlay()
            return self._overlays[cluster]

    def disband(self, cluster: str) -> None:
        """Remove the network of a cluster whose members have ended."""
        with self._lock:
            overlay = self._overlays.pop(cluster, None)
        if overlay:
            overlay.close()

    def close(self) -> None:
        """End all pods and networks."""
        for identity in list(self.hosts):
            self.stop(identity)
        for cluster in list(self._overlays):
            self.disband(cluster)
