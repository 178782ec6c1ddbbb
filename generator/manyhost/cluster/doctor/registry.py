"""Whether the engine's image can be pulled: one question to its registry, without credentials."""

from __future__ import annotations

from manyhost.cluster.doctor.check import Finding, Sight, check, failed, passed, warned
from manyhost.cluster.registry import Registry, Silent, split


@check("image", "Does the engine's image exist in its registry?")
def image(sight: Sight) -> Finding:
    """A HEAD request for the manifest (OCI distribution specification)."""
    reference = sight.target.pod("leader")["spec"]["containers"][0]["image"]
    host, repository, tag = split(reference)
    try:
        status = Registry(host).ask("HEAD", f"{repository}/manifests/{tag}").status
    except Silent as error:
        return warned(f"{host} could not be asked for {reference}: {error.why}")
    if status == 404:
        return failed(
            f"{reference} does not exist", "choose another engine.version, or set engine.image and engine.tag"
        )
    if status in (401, 403):
        return warned(f"{host} does not tell strangers about {reference}; the nodes' own credentials decide")
    if status >= 400:
        return warned(f"{host} answers {status} for {reference}")
    return passed(f"{reference} exists")
