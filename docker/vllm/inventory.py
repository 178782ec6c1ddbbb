"""What is installed in the image: recorded before the extras, compared after them, and written down.

    inventory.py record FILE
    inventory.py compare FILE REQUIREMENTS VERSION
    inventory.py sbom FILE

compare fails when something of the engine's has changed, an extra is missing or cannot be imported, or pip
sees a contradiction that was not there before. sbom writes CycloneDX 1.6. Runs inside the image, with the
standard library alone.
"""

from __future__ import annotations

import importlib
import json
import platform
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote


def installed() -> dict[str, str]:
    """Return the versions of all Python packages, by normalized name."""
    found: dict[str, str] = {}
    for each in metadata.distributions():
        if each.metadata["Name"]:
            found.setdefault(normal(each.metadata["Name"]), each.version)  # the first is the one that is used
    return dict(sorted(found.items()))


def normal(name: str) -> str:
    """Return a package's name as the index has it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def contradictions() -> list[str]:
    """Return what pip finds wrong with the installed packages, a line each."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "check"], stdout=subprocess.PIPE, text=True, check=False
    )
    return done.stdout.splitlines() if done.returncode else []


def record(file: Path) -> None:
    """Write what is installed, and what is wrong with it already."""
    file.write_text(json.dumps({"installed": installed(), "contradictions": contradictions()}))


def compare(file: Path, requirements: Path, version: str) -> list[str]:
    """Return what is wrong after the extras were installed."""
    before = json.loads(file.read_text())
    base, now = before["installed"], installed()
    pins = re.findall(r"^([\w.-]+)==(\S+)", requirements.read_text(), re.M)
    wanted = {normal(name): has for name, has in pins}
    engine = base.get("vllm", "none").partition("+")[0]
    problems = [f"the base has vLLM {engine}, not {version}"] if f"v{engine}" != version else []
    problems += [
        f"{name} was {has} in the base and is {now.get(name, 'gone')}"
        for name, has in base.items()
        if now.get(name) != has
    ]
    problems += [f"{name} is not {has}" for name, has in wanted.items() if now.get(name) != has]
    problems += [f"{name} was not asked for" for name in now if name not in base and name not in wanted]
    problems += [text for text in contradictions() if text not in before["contradictions"]]
    for module, packages in metadata.packages_distributions().items():
        if module.isidentifier() and any(normal(package) in wanted for package in packages):
            try:
                importlib.import_module(module)
            except Exception as error:  # whatever it is, the package does not work
                problems.append(f"import {module} fails: {type(error).__name__}: {error}")
    return problems


def sbom() -> dict[str, Any]:
    """Return the packages of Python and of the system as a CycloneDX document."""
    components = [component("pypi", name, version) for name, version in installed().items()]
    if shutil.which("dpkg-query"):
        system = platform.freedesktop_os_release()["ID"]
        form = ["dpkg-query", "--show", "--showformat", "${Package} ${Version} ${Architecture}\n"]
        for line in subprocess.run(form, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines():
            name, version, arch = line.split()
            components.append(component(f"deb/{system}", name, version, f"?arch={arch}"))
    return {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": components}


def component(kind: str, name: str, version: str, more: str = "") -> dict[str, str]:
    """Return one entry of the document; its package URL is of package-url/purl-spec."""
    purl = f"pkg:{kind}/{quote(name)}@{quote(version, safe=':')}{more}"
    return {"type": "library", "name": name, "version": version, "purl": purl, "bom-ref": purl}


def main(command: str, file: str, *rest: str) -> int:
    """Run one command and return the exit status."""
    if command == "record":
        record(Path(file))
    elif command == "sbom":
        Path(file).write_text(json.dumps(sbom(), indent=1))
    else:
        problems = compare(Path(file), Path(rest[0]), rest[1])
        for problem in problems:
            print(f"manyhost: {problem}", file=sys.stderr)
        return 1 if problems else 0
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
