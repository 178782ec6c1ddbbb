"""The test cluster as tests see it: `Cluster`."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from ipaddress import ip_network
from pathlib import Path

from testbed import build, cgroups, gpu_hosts, images, kwok, lws, node, pki
from testbed.api import Api
from testbed.controlplane import ControlPlane
from testbed.errors import ClusterError, MissingError
from testbed.layout import MAX_INDEX, MAX_NODES, Layout, cache_dir, state_dir
from testbed.machine import label, remains
from testbed.shapes import A3MEGA, SHAPES, Shape
from testbed.system import kill, run, succeeds, wait_for

_PROGRAMS = {  # program: the Debian package that has it
    "ip": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "openssl": "openssl",
    "tar": "tar",
}
_HIDDEN = ("/run", "/var/run", "/var/lib", "/var/log")  # machines have their own of these


@dataclass(frozen=True)
class Options:
    """The shape of a cluster.

    Attributes:
        nodes: container nodes, 0 to 9.
        gpus: GPUs that each container node claims to have. With any, the node carries the label
            and the taint of an A3 Mega host.
        gpu_hosts: add the kwok nodes and the objects of a healthy A3 Mega cluster; `become` makes another
            of it.
    """

    nodes: int = 2
    gpus: int = 0
    gpu_hosts: bool = False


class Cluster:
    """A Kubernetes cluster on this machine.

    Any number of objects, in any number of processes, may stand for the same cluster: all they
    know is its name.
    """

    def __init__(self, name: str = "manyhost") -> None:
        """Names the cluster; `up` makes it.

        Args:
            name: up to 20 of a-z, 0-9 and '-'.

        Raises:
            ClusterError: not a possible name.
        """
        try:
            self.state = state_dir(name)
        except ValueError as error:
            raise ClusterError(str(error)) from None
        self.name = name

    # Being there

    @property
    def layout(self) -> Layout:
        """The addresses of the cluster that is up."""
        return self._layout()

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig; the same path for every life of the cluster."""
        return self.state / "kubeconfig"

    @property
    def programs(self) -> Path:
        """The folder of the built programs, `kubectl` among them."""
        return build.programs()

    @property
    def api(self) -> Api:
        """The API server."""
        return Api(self._layout())

    def options(self) -> Options | None:
        """The shape of the cluster, None when it was never started or is down."""
        try:
            state = json.loads((self.state / "state.json").read_text())
            return Options(**state["options"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @property
    def shape(self) -> Shape:
        """The shape of the GPU hosts."""
        try:
            state = json.loads((self.state / "state.json").read_text())
        except (OSError, ValueError):
            raise ClusterError(f"cluster {self.name} is not up") from None
        return SHAPES[state.get("shape", A3MEGA.name)]

    def healthy(self) -> bool:
        """Whether every machine runs, the API server serves and every node is Ready."""
        options = self.options()
        if options is None:
            return False
        try:
            layout = self._layout()
            api = Api(layout)
            api.call("GET", "/readyz")
            if not self._control_plane().machine.pids(self.programs / "lws-controller"):
                return False
            for item in self._nodes(layout, options):
                conditions = api.get(f"/api/v1/nodes/{item.place.name}")["status"]["conditions"]
                if not any(c["type"] == "Ready" and c["status"] == "True" for c in conditions):
                    return False
                if item.machine.pid() is None:
                    return False
        except (OSError, ClusterError, KeyError):
            return False
        return True

    # Up and down

    def up(
        self,
        *,
        nodes: int = 2,
        gpus: int = 0,
        gpu_hosts: bool = False,
        images: Sequence[str | Path] = (),
    ) -> bool:
        """Starts the cluster, or finds it running.

        The remains of one that crashed are removed first.

        Args:
            nodes: container nodes, 0 to 9.
            gpus: GPUs that each container node advertises.
            gpu_hosts: add A3 Mega hosts (kwok) and the GKE objects that belong to them.
            images: docker archives to import into every container node.

        Returns:
            True when it was started, False when it was up and healthy already.

        Raises:
            MissingError: this machine lacks something, named in the message.
            ClusterError: a step failed, or it is up with another shape.
        """
        options = Options(nodes, gpus, gpu_hosts)
        _check_machine(nodes)
        programs = build.programs()
        with build.locked(f"cluster-{self.name}"):
            if self.healthy():
                if self.options() != options:
                    raise ClusterError(f"cluster {self.name} is up with {self.options()}: take it down first")
                for archive in images:
                    self.import_image(archive)
                return False
            self._down()
            try:
                self._up(self._claim(options), options, programs, [Path(i) for i in images])
            except ClusterError as error:
                kept = self._keep_logs()
                self._down()
                raise ClusterError(f"{error}\nlogs: {kept}", exit_code=error.exit_code) from error
            except BaseException:
                self._down()
                raise
        return True

    def down(self) -> None:
        """Removes the cluster without a trace, in whatever state it is. Twice is safe."""
        if os.geteuid() != 0:
            raise MissingError("the test cluster needs root")
        with build.locked(f"cluster-{self.name}"):
            self._down()

    def _up(self, layout: Layout, options: Options, programs: Path, archives: Sequence[Path]) -> None:
        pki.create(layout)
        run("ip", "link", "add", layout.bridge, "type", "bridge")
        run("ip", "link", "set", layout.bridge, "alias", label(layout.state))
        # nothing in the cluster reaches the network of this machine
        Path(f"/proc/sys/net/ipv4/conf/{layout.bridge}/forwarding").write_text("0")
        run("ip", "addr", "add", f"{layout.gateway}/24", "dev", layout.bridge)
        run("ip", "link", "set", layout.bridge, "up")
        control_plane = ControlPlane(layout, programs)
        nodes = self._nodes(layout, options)
        archives = [images.pause(programs, lws.image()), *archives]

        def prepare(item: node.ContainerNode) -> None:
            item.boot()
            run("ip", "route", "add", item.place.pods, "via", item.place.address)
            for archive in archives:
                item.import_image(archive)

        with ThreadPoolExecutor() as pool:
            booted = [pool.submit(prepare, item) for item in nodes]
            control_plane.boot()
            api = control_plane.wait()
            control_plane.start_controllers()
            for done, item in zip(booted, nodes, strict=True):
                done.result()
                item.start_kubelet()
            lws.install(api, control_plane.machine, programs)
            if options.gpu_hosts:
                kwok.start(control_plane.machine, programs)
                gpu_hosts.install(api)
            node.wait_all(nodes, api)
            if options.gpu_hosts:
                gpu_hosts.wait(api)
        wait_for("default service account", lambda: api.get(_SERVICE_ACCOUNT))
        if nodes or options.gpu_hosts:
            wait_for("LeaderWorkerSet Deployment", lambda: lws.available(api), seconds=90)

    def _down(self) -> None:
        _, indexes = remains(self.state)
        with suppress(ClusterError):
            indexes.add(self._layout().index)
        while pids := remains(self.state)[0]:  # a start that was killed may have one more under way
            kill(pids)
        for index in indexes:
            layout = Layout(self.name, index)
            for link in _ports_of(layout.bridge):
                succeeds("ip", "link", "del", link)
            succeeds("ip", "link", "del", layout.bridge)
            cgroups.remove(layout.cgroup)
        if self.state.is_dir():
            run("rm", "-rf", self.state)

    def _keep_logs(self) -> Path:
        """Copies the logs of a start that failed, the last one only, and says where to."""
        target = cache_dir() / f"failed-{self.name}"
        shutil.rmtree(target, ignore_errors=True)
        for log in self.state.glob("*/*.log"):
            place = target / log.parent.name
            place.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(log, place / log.name)
        return target

    def _claim(self, options: Options) -> Layout:
        """Takes the lowest index that no other cluster has, and writes it down."""
        with build.locked("index"):
            for index in range(MAX_INDEX + 1):
                layout = Layout(self.name, index)
                notes = [json.loads(s.read_text()) for s in self.state.parent.glob("*/state.json")]
                taken = index in {note["index"] for note in notes}
                if not taken and not cgroups.exists(layout.cgroup) and _addresses_free(layout):
                    self.state.mkdir(parents=True)
                    state = {"index": index, "options": asdict(options)}
                    (self.state / "state.json").write_text(json.dumps(state) + "\n")
                    return layout
        raise ClusterError(
            f"no free subnet in 10.99.0.0/16: {MAX_INDEX + 1} clusters, or other networks there"
        )

    # Parts

    def _layout(self) -> Layout:
        try:
            state = json.loads((self.state / "state.json").read_text())
            return Layout(self.name, int(state["index"]))
        except (OSError, ValueError, KeyError):
            raise ClusterError(f"cluster {self.name} is not up") from None

    def _control_plane(self) -> ControlPlane:
        return ControlPlane(self._layout(), self.programs)

    def _nodes(self, layout: Layout, options: Options) -> list[node.ContainerNode]:
        kind = gpu_hosts.container_node(options.gpus)
        programs = self.programs
        numbers = range(1, options.nodes + 1)
        return [node.ContainerNode(layout.node(n), kind, programs) for n in numbers]

    def _node(self, name: str) -> node.ContainerNode:
        layout, options = self._layout(), self.options() or Options()
        found = {item.place.name: item for item in self._nodes(layout, options)}
        if name not in found:
            raise ClusterError(f"no container node {name}: there are {', '.join(found) or 'none'}")
        return found[name]

    # For tests

    def become(self, shape: Shape) -> None:
        """Replaces the GPU hosts, their networks and DaemonSets by those of another shape.

        Faults must be healed before: what a shape does not have is not looked for.
        """
        before, note = self.shape, self.state / "state.json"
        if before == shape:
            return
        gpu_hosts.replace(self.api, before, shape)
        note.write_text(json.dumps({**json.loads(note.read_text()), "shape": shape.name}) + "\n")

    def kubectl(self, *args: str, stdin: str | None = None) -> str:
        """Runs kubectl as the administrator and returns its output.

        Raises:
            ClusterError: kubectl ended with an error.
        """
        program = self.programs / "kubectl"
        direct = ("env", "NO_PROXY=*", "no_proxy=*")
        return run(*direct, program, "--kubeconfig", self.kubeconfig, *args, stdin=stdin)

    def kubeconfig_for_nobody(self) -> Path:
        """A kubeconfig whose user may log in and has no permission at all."""
        path = self.state / "kubeconfig-nobody"
        pki.write_kubeconfig(self._layout(), pki.NOBODY, path)
        return path

    def stop_api_server(self) -> None:
        """Kills the API server; everything else goes on."""
        self._control_plane().stop_api_server()

    def start_api_server(self) -> None:
        """Starts the API server if it does not run; waits until it serves."""
        control_plane = self._control_plane()
        if not control_plane.machine.pids(self.programs / "kube-apiserver"):
            control_plane.start_api_server()
        control_plane.wait()

    def stop_lws_controller(self) -> None:
        """Kills the LeaderWorkerSet controller, and its webhooks with it."""
        kill(self._control_plane().machine.pids(self.programs / "lws-controller"))

    def start_lws_controller(self) -> None:
        """Starts the LeaderWorkerSet controller if it does not run; waits for its webhooks."""
        machine = self._control_plane().machine
        if not machine.pids(self.programs / "lws-controller"):
            lws.start(machine, self.programs)
        lws.wait(machine)

    def kill_node(self, name: str) -> None:
        """Takes a container node's power away: its containers end, the API hears nothing."""
        self._node(name).cut_power()

    def restore_node(self, name: str) -> None:
        """Starts a killed node again, with its disk, and waits until it is Ready."""
        item = self._node(name)
        item.boot()
        item.start_kubelet()
        item.wait(self.api)

    def import_image(self, archive: str | Path) -> None:
        """Imports a docker archive into every container node."""
        for item in self._nodes(self._layout(), self.options() or Options()):
            item.import_image(Path(archive))


_SERVICE_ACCOUNT = "/api/v1/namespaces/default/serviceaccounts/default"


def _addresses_free(layout: Layout) -> bool:
    """Whether this machine has no bridge of that name and no route into the cluster's networks."""
    if (Path("/sys/class/net") / layout.bridge).exists():
        return False
    ours = [ip_network(f"{layout.gateway}/24", strict=False), ip_network(layout.pods)]
    routes = json.loads(run("ip", "-j", "-4", "route", "show", "table", "all") or "[]")
    for destination in {r["dst"] for r in routes} - {"default"}:
        if any(ip_network(destination, strict=False).overlaps(n) for n in ours):
            return False
    return True


def _ports_of(bridge: str) -> list[str]:
    ports = Path(f"/sys/class/net/{bridge}/brif")
    return [p.name for p in ports.iterdir()] if ports.is_dir() else []


def _check_machine(nodes: int) -> None:
    if not 0 <= nodes <= MAX_NODES:
        raise ClusterError(f"nodes: {nodes} is not within 0 to {MAX_NODES}")
    if os.uname().sysname != "Linux" or os.geteuid() != 0:
        raise MissingError("the test cluster needs Linux and root")
    packages = {package for program, package in _PROGRAMS.items() if not shutil.which(program)}
    if nodes:
        packages.update(node.missing_packages())
    if packages:
        raise MissingError(f"missing: apt-get install {' '.join(sorted(packages))}")
    state = str(cache_dir())
    if nodes and any(state == h or state.startswith(f"{h}/") for h in _HIDDEN):
        raise MissingError(f"MANYHOST_CACHE: {state} must not be below {', '.join(_HIDDEN)}")
