"""Ends the pod, or the cluster that it is in, when its lease is over. Runs in the pod, with Python alone.

The lease is the end of the name, `...-until-20261126T1830Z`: who may rename it may renew it. As long as
RunPod cannot be asked, what was read last counts, after some minutes: it may have been renewed since.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
import urllib.error
import urllib.request
from calendar import timegm
from typing import Any

URL = os.environ.get("MANYHOST_RUNPOD_URL", "https://api.runpod.io")
POD = os.environ["RUNPOD_POD_ID"]
# The user's restricted key, and the one that RunPod gives a pod for itself.
KEYS = [
    value for name in ("MANYHOST_LEASE_KEY", "RUNPOD_API_KEY") if (value := os.environ.get(name, "").strip())
]
EVERY_SECONDS = float(os.environ.get("MANYHOST_LEASE_SECONDS", "30"))
BLIND_SECONDS = 20 * EVERY_SECONDS
UNTIL = re.compile(r"-until-([0-9]{8}T[0-9]{4}Z)$")


def ask(method: str, path: str) -> dict[str, Any]:
    """Ask RunPod; with the next key where one is not allowed to."""
    for number, key in enumerate(KEYS):
        request = urllib.request.Request(
            f"{URL}/v2/{path}", method=method, headers={"Authorization": f"Bearer {key}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                found: dict[str, Any] = json.loads(answer.read() or b"{}")
                return found
        except urllib.error.HTTPError as error:
            if error.code not in (401, 403) or number == len(KEYS) - 1:
                raise
    raise OSError("there is no key")


def until(name: str) -> float | None:
    """Return when the lease in a name ends, seconds since the epoch; None when there is none."""
    found = UNTIL.search(name)
    return timegm(time.strptime(found[1], "%Y%m%dT%H%MZ")) if found else None


def main() -> None:
    """Watch until the end."""
    end, path, told = float(os.environ["MANYHOST_UNTIL"]), f"pods/{POD}", False
    read = time.time()
    while True:
        try:
            pod = ask("GET", f"pods/{POD}")
            name = pod["name"]
            if pod.get("cluster"):
                path = f"clusters/{pod['cluster']['id']}"
                name = ask("GET", path)["name"]
            end, read = until(name) or end, time.time()
            if not told:
                print(f"manyhost: lease held until {time.strftime('%FT%TZ', time.gmtime(end))}", flush=True)
                told = True
            over = time.time() >= end
        except Exception as error:  # whatever it is: nobody else would end the pod
            print(f"manyhost: lease: RunPod cannot be asked: {error}", file=sys.stderr, flush=True)
            over = time.time() >= max(end, read + BLIND_SECONDS)
        if over:
            print("manyhost: the lease is over", flush=True)
            try:
                ask("DELETE", path)
            except Exception as error:
                print(f"manyhost: lease: {error}", file=sys.stderr, flush=True)
        time.sleep(EVERY_SECONDS)


if __name__ == "__main__":
    main()
