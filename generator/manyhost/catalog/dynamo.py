"""Releases of NVIDIA Dynamo and the engines that they serve with (values/dynamo.yaml)."""

from typing import Annotated

from msgspec import Meta

from manyhost.catalog.engine import numbers
from manyhost.catalog.struct import Struct

Release = Annotated[str, Meta(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$")]


class Pair(Struct, frozen=True):
    """One release of Dynamo and what it was built with.

    Attributes:
        dynamo: Version of ai-dynamo and ai-dynamo-runtime.
        vllm: The one version of vLLM that it serves with, as values/engines/vllm names it.
        nixl: Version of the library that hands KV caches over; the newest allowed where a range is.
        ray: Oldest version that is allowed; empty where none is asked for.
        sidecar: Whether its worker can stand beside an engine that somebody else starts.
    """

    dynamo: Release
    vllm: Annotated[str, Meta(pattern=r"^v[0-9]+\.[0-9]+\.[0-9]+$")]
    nixl: Release
    ray: Annotated[str, Meta(pattern=r"^([0-9]+\.[0-9]+\.[0-9]+)?$")] = ""
    sidecar: bool = False


class Dynamo(Struct, frozen=True):
    """What is known about Dynamo.

    Attributes:
        pairs: Its releases, the newest first.
        planner: The newest release whose planner starts from PyPI alone.
        image: Its image with vLLM, without the tag, which is the release.
        renamed_flags: Flags of vLLM that Dynamo calls otherwise.
        server_flags: Flags of vLLM that Dynamo does not take.
    """

    pairs: Annotated[list[Pair], Meta(min_length=1)]
    planner: Release
    image: str
    renamed_flags: dict[str, str]
    server_flags: list[str]

    def pair(self, version: str) -> Pair | None:
        """Return the release that serves with vLLM at a version such as v0.31.0; None where there is none.

        A build for CPUs (v0.31.0-cpu) is of the same version.
        """
        return next((pair for pair in self.pairs if numbers(pair.vllm) == numbers(version)), None)

    def nearest(self, version: str) -> Pair:
        """Return the release whose vLLM is the fewest versions away; of two, the newer one."""
        wanted = numbers(version)

        def apart(pair: Pair) -> list[int]:
            return [abs(a - b) for a, b in zip(numbers(pair.vllm), wanted, strict=True)]

        return min(self.pairs, key=apart)
