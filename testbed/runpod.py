"""RunPod's API v2 on loopback: it remembers, bills by the second, and fails when told to.

What comes in and goes out is held to RunPod's OpenAPI description where that is at hand. Its clock is the
caller's, so that hours pass at once. Its pods are records, or run (runpod_pods.py).
"""

from __future__ import annotations

import itertools
import re
import secrets as randomness
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from testbed import runpod_answers as answers
from testbed.runpod_bills import Ledger
from testbed.runpod_network import CIDR
from testbed.runpod_pods import Pods, Work
from testbed.runpod_server import Answer, Fault, Query, Refused, Server

Thing = dict[str, Any]
_LISTS = {"network-volumes": "networkVolumes", "clusters": "clusters", "pods": "pods"}
_SECRET = re.compile(r"\{\{ *RUNPOD_SECRET_(\w+) *\}\}")


class RunPod(Server):
    """One account.

    Args:
        clock: Seconds (since 1970, where dates matter); what is billed follows it.
        description: RunPod's OpenAPI file; nothing is held to it without.
        usd_per_gpu_hour: What a GPU costs.
        pods: Lets pods run; they are only records without.
        keys: More API keys: each with a regular expression for the "METHOD /path" that it may do.
        secrets: The account's, by name.

    Attributes:
        key: An API key that may do everything.
        ssh_keys: The account's public keys.
        balance: USD.
        capacity: Hosts with GPUs that are left to whoever asks.
        lag: Seconds that bills are behind.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        description: Path | None = None,
        usd_per_gpu_hour: float = 4.0,
        *,
        pods: Pods | None = None,
        keys: Mapping[str, str] | None = None,
        secrets: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(clock, description)
        self.price, self.pods = usd_per_gpu_hour, pods
        self.key = "rpa_standin"
        self.keys |= {self.key: "", **(keys or {})}
        self.secrets = dict(secrets or {})
        self.ssh_keys: list[str] = []
        self.things: dict[str, dict[str, Thing]] = {kind: {} for kind in _LISTS}
        self.balance, self.capacity, self.lag = 1000.0, 8, 0.0
        self._numbers = itertools.count(1)
        self._born: dict[str, float] = {}
        self._ledger = Ledger()
        self._started: dict[str, float] = {}  # pods that are not stopped
        self._stuck: set[str] = set()
        self._with_ssh: set[str] = set()
        if pods:
            pods.reach.append(self.port)

    def billed(self, identity: str) -> float:
        """Return what a thing has cost so far, USD."""
        self._settle()
        return self._ledger.usd(identity, self.clock())

    def alive(self) -> list[str]:
        """Return the names of all clusters and pods that are there now; a cluster's pods are in it."""
        with self._lock:
            return [
                thing["name"]
                for kind in ("clusters", "pods")
                for thing in self._there(kind).values()
                if "cluster" not in thing
            ]

    def environment(self, identity: str) -> dict[str, str]:
        """Return what a pod finds in its environment."""
        pod = self.things["pods"][identity]
        members = self._members(pod["cluster"]["id"]) if "cluster" in pod else []
        own = answers.environment(pod, members)
        own["RUNPOD_API_KEY"] = next(key for key, may in self.keys.items() if may == _only(identity))
        if identity in self._with_ssh:
            own["PUBLIC_KEY"] = "\n".join(self.ssh_keys)
        env = {
            name: _SECRET.sub(lambda found: self.secrets.get(found[1], found[0]), value)
            for name, value in pod["env"].items()
        }
        return env | own

    def do(self, method: str, parts: list[str], query: Query, body: Any, fault: Fault) -> Answer:
        match [method, *parts]:
            case ["GET" | "PUT", "account", "ssh-keys"]:
                self.ssh_keys = body["keys"] if body else self.ssh_keys
                return Answer(200, {"keys": self.ssh_keys})
            case ["GET", "catalog", kind, *one]:
                found = answers.catalog(kind, query, self.price, "HIGH" if self._room() > 0 else "NONE")
                if not one:
                    return Answer(200, {kind if kind != "datacenters" else "dataCenters": found})
                for item in found:
                    if item["id"] == one[0]:
                        return Answer(200, item)
            case ["GET", "billing", kind]:
                self._settle()
                return Answer(200, self._ledger.bill(kind, query, self.clock() - self.lag))
            case ["GET", "clusters", identity, "pods"]:
                self._get("clusters", identity)
                return Answer(200, {"pods": [self._see("pods", pod) for pod in self._members(identity)]})
            case ["GET", "pods", identity, "logs"]:
                self._get("pods", identity)
                return Answer(200, self._log(identity, query))
            case ["POST", "pods", identity, "action"]:
                return self._act(identity, body["action"])
            case ["GET", kind] if kind in _LISTS:
                things = list(self._there(kind).values())
                if query.get("includeClusterPods") != "true":
                    things = [thing for thing in things if "cluster" not in thing]
                return Answer(200, {_LISTS[kind]: [self._see(kind, thing) for thing in things]})
            case ["POST", kind] if kind in _LISTS:
                return Answer(201, self._see(kind, self._make(kind, body, fault)))
            case ["GET", kind, identity] if kind in _LISTS:
                return Answer(200, self._see(kind, self._get(kind, identity)))
            case ["PATCH", kind, identity] if kind in _LISTS:
                return Answer(200, self._see(kind, self._change(kind, identity, body)))
            case ["DELETE", kind, identity] if kind in _LISTS:
                self._get(kind, identity, alone=True)
                self._remove(kind, identity)
                return Answer(204)
        raise Refused(404, f"no such path: {method} /v2/{'/'.join(parts)}")

    def _there(self, kind: str) -> dict[str, Thing]:
        now = self.clock()
        return {i: thing for i, thing in self.things[kind].items() if self._born[i] <= now}

    def _get(self, kind: str, identity: str, *, alone: bool = False) -> Thing:
        thing = self._there(kind).get(identity)
        if thing is None:
            raise Refused(404, f"no {kind} {identity}")
        if alone and "cluster" in thing:
            raise Refused(409, f"pod {identity} belongs to cluster {thing['cluster']['id']}")
        return thing

    def _members(self, cluster: str) -> list[Thing]:
        """The pods of a cluster, by rank."""
        pods = self.things["pods"].values()
        return [pod for pod in pods if pod.get("cluster", {}).get("id") == cluster]

    def _room(self) -> int:
        started = [i for i in self._started if "gpu" in self.things["pods"][i]]
        return self.capacity - len(started)

    def _make(self, kind: str, body: Thing, fault: Fault) -> Thing:
        if self.balance <= 0:
            raise Refused(402, "insufficient balance")
        identity = f"{kind[:2]}{next(self._numbers):06d}"
        born = self.clock() + fault.late
        data_center = self._place(kind, body)
        if kind == "network-volumes":
            thing, rate = {"id": identity, "type": "STANDARD", **body}, body["size"] * answers.VOLUME_USD
        elif kind == "pods":
            if ("gpu" in body) == ("cpu" in body):
                raise Refused(400, "exactly one of gpu and cpu")
            thing = self._pod(identity, {**body, "dataCenterId": data_center}, born)
            rate = thing["cost"]
        else:
            thing = {"id": identity, "createdAt": answers.time(born), "dataCenterId": data_center}
            thing |= {name: body[name] for name in ("name", "type", "compute")}
            rate = self._cluster(thing, body, born, fault.stuck)
        self.things[kind][identity], self._born[identity] = thing, born
        self._ledger.begin(identity, born, rate)
        for pod in self._members(identity) if kind == "clusters" else [thing] if kind == "pods" else []:
            self._start(pod)
        return thing

    def _place(self, kind: str, body: Thing) -> str:
        """Choose a data center.

        Raises:
            Refused: There is no room, or there is no such place.
        """
        wanted = [body["dataCenter"]] if kind == "network-volumes" else body.get("dataCenterIds")
        places = [place for place in wanted or answers.DATA_CENTERS if place in answers.DATA_CENTERS]
        for mount in body.get("mounts", {}).get("network", []):
            volume = self.things["network-volumes"].get(mount["volumeId"])
            if volume:
                places = [place for place in places if place == volume["dataCenter"]]
            elif self.pods:
                raise Refused(400, f"no network volume {mount['volumeId']}")
        hosts = body["compute"]["podCount"] if kind == "clusters" else int("gpu" in body)
        if hosts > self._room() or not places:
            raise Refused(400, "there are no instances available")
        return places[0]

    def _cluster(self, cluster: Thing, body: Thing, born: float, stuck: int) -> float:
        """Make the members of a cluster; return what they cost an hour."""
        compute, count = body["compute"], body["compute"]["podCount"]
        cost = 0.0
        for rank in range(count):
            identity = f"po{next(self._numbers):06d}"
            place = {"id": cluster["id"], "rank": rank, "ip": CIDR.replace("0/24", str(rank + 2))}
            if body["type"] == "RAY":
                place["role"] = "RAY_WORKER" if rank else "RAY_HEAD"
            gpu = {"id": compute["gpuTypeId"], "count": compute["gpuCountPerPod"]}
            own = {"name": f"{body['name']}-{rank}", "gpu": gpu, "dataCenterId": cluster["dataCenterId"]}
            pod = self._pod(identity, {**body, **own, "cluster": place}, born)
            self.things["pods"][identity], self._born[identity] = pod, born
            if rank >= count - stuck:
                self._stuck.add(identity)
            cost += pod["cost"]
        return cost

    def _pod(self, identity: str, body: Thing, born: float) -> Thing:
        try:
            shlex.split(body.get("args", ""))
        except ValueError as error:
            raise Refused(400, f"args: {error}") from None
        if body.get("startSsh"):
            self._with_ssh.add(identity)
        self.keys[f"rpa_pod_{randomness.token_hex(16)}"] = _only(identity)
        return answers.new_pod(identity, body, born, self.price)

    def _start(self, pod: Thing) -> None:
        identity = pod["id"]
        self._started[identity] = self.clock()
        if not self.pods or identity in self._stuck:
            return
        mounts = {one["path"]: self.pods.volume(one["volumeId"]) for one in pod["mounts"].get("network", [])}
        if own := pod["mounts"].get("persistent"):
            mounts[own["path"]] = self.pods.volume(identity)
        command = shlex.split(pod["args"]) or ["sleep", "infinity"]
        member = (pod["cluster"]["id"], pod["cluster"]["ip"]) if "cluster" in pod else None
        work = Work(command, self.environment(identity), mounts, answers.tcp_ports(pod), member)
        self.pods.start(identity, work, self.clock)

    def _stop(self, identity: str) -> None:
        self._settle()
        if self.pods:
            self.pods.stop(identity)
        self._started.pop(identity, None)
        self._ledger.end(identity, self.clock())

    def _act(self, identity: str, action: str) -> Answer:
        pod = self._get("pods", identity, alone=True)
        status = self._status(identity)
        if action not in answers.ACTIONS[status]:
            raise Refused(409, f"{action}: the pod is {status}")
        if action == "terminate":
            self._remove("pods", identity)
            return Answer(204)
        self._stop(identity)
        if action != "stop":
            if "gpu" in pod and self._room() < 1:
                raise Refused(400, "there are no instances available")
            self._ledger.begin(identity, self.clock(), pod["cost"])
            self._start(pod)
        return Answer(200, self._see("pods", pod))

    def _change(self, kind: str, identity: str, body: Thing) -> Thing:
        thing = self._get(kind, identity, alone=True)
        if body.get("size", thing.get("size")) != thing.get("size"):
            if body["size"] < thing["size"]:
                raise Refused(400, "size may only increase")
            self._ledger.begin(identity, self.clock(), body["size"] * answers.VOLUME_USD)
        changed = {name: value for name, value in body.items() if name in thing}
        if "globalNetworking" in changed:
            changed["globalNetworking"] = {"enabled": changed["globalNetworking"]}
        thing |= changed
        return thing

    def _remove(self, kind: str, identity: str) -> None:
        if kind == "clusters":
            for pod in self._members(identity):
                self._remove("pods", pod["id"])
        elif kind == "pods":
            self._stop(identity)
            self.keys = {key: may for key, may in self.keys.items() if may != _only(identity)}
        if self.pods:
            self.pods.disband(identity)
            self.pods.erase(identity)
        self._ledger.end(identity, self.clock())
        del self.things[kind][identity]

    def _status(self, identity: str) -> str:
        if identity not in self._started:
            return "EXITED"
        if identity in self._stuck:
            return "PROVISIONING"
        if self.pods:
            return self.pods.hosts[identity].status
        return answers.status(self.clock() - self._started[identity])

    def _see(self, kind: str, thing: Thing) -> Thing:
        if kind == "clusters":
            members = self._members(thing["id"])
            return answers.cluster(thing, [self._see("pods", pod) for pod in members])
        if kind == "network-volumes":
            return thing
        identity, status = thing["id"], self._status(thing["id"])
        recorded = {port: 40000 + port for port in answers.tcp_ports(thing)}
        ports = self.pods.hosts[identity].ports if self.pods and status == "RUNNING" else recorded
        return answers.pod(thing, status, self._started.get(identity), self.clock(), ports)

    def _log(self, identity: str, query: Query) -> Iterator[str]:
        """The lines that a pod has printed, and those to come until it is removed."""
        if not self.pods or identity in self._stuck or query.get("source") == "system":
            return
        host, told = None, 0
        while identity in self.things["pods"]:
            now = self.pods.hosts[identity]
            if now is not host:  # or it was restarted
                told = 0 if host else max(0, len(now.lines) - int(query.get("tail", "100")))
                host = now
            for when, line in host.lines[told:]:
                told += 1
                yield answers.log_event(when, told, line)
            time.sleep(0.05)

    def _settle(self) -> None:
        """Pods that have ended by themselves are not billed any more."""
        for identity, host in list(self.pods.hosts.items()) if self.pods else ():
            if host.ended is not None:
                self._ledger.end(identity, host.ended)

    def close(self) -> None:
        """Stop answering, and end all pods."""
        super().close()
        with self._lock:
            self.keys.clear()  # who is connected still is refused
            self.things["pods"].clear()  # ends streams of logs
            if self.pods:
                self.pods.close()


def _only(identity: str) -> str:
    """What the key of a pod may do."""
    return f"(GET|DELETE) /v2/pods/{identity}$"
