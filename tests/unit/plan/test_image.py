"""The engine's image: what it can start, and on which CPUs."""

from __future__ import annotations

import msgspec
import pytest
from manyhost.catalog import Catalog, Recipe, resolve
from manyhost.errors import InvalidInput
from manyhost.plan import image

from tests.helpers.cli import RECIPE, ROOT

CATALOG = Catalog(ROOT)
ENGINE = CATALOG.engine("v0.26.0")
HOST = CATALOG.environment("a3mega").host
ARM = msgspec.structs.replace(HOST, machine_type="a4x-highgpu-4g", architecture="arm64")
BOTH = msgspec.structs.replace(ENGINE, architectures=["amd64", "arm64"])
INTEL = msgspec.structs.replace(ENGINE, architectures=["amd64"])
DIGEST = f"sha256:{'a' * 64}"


def recipe(*assignments: str, **variables: str) -> Recipe:
    return resolve(CATALOG, RECIPE, assignments=assignments, variables=variables).recipe


def test_an_image_for_other_cpus_is_refused_before_a_host_pulls_it() -> None:
    image.check(recipe(), INTEL, HOST)
    image.check(recipe(), BOTH, ARM)
    with pytest.raises(InvalidInput) as caught:
        image.check(recipe(), INTEL, ARM)
    assert caught.value.where == "engine.version"
    assert caught.value.message == (
        "the stock image vllm/vllm-openai:v0.26.0 is built for amd64, a4x-highgpu-4g is arm64"
    )
    assert "engine.image" in caught.value.fix


@pytest.mark.parametrize(
    ("assignments", "variables"),
    [(("engine.image=o/vllm",), {}), ((), {"ARTIFACT_REGISTRY": "eu.pkg.dev/p/r"})],
)
def test_nobody_knows_what_ones_own_image_is_built_for(
    assignments: tuple[str, ...], variables: dict[str, str]
) -> None:
    image.check(recipe(*assignments, **variables), INTEL, ARM)


@pytest.mark.parametrize("environment", CATALOG.names("environments"))
def test_every_default_recipe_has_an_image_for_its_hosts(environment: str) -> None:
    found = CATALOG.environment(environment)
    chosen = resolve(CATALOG, CATALOG.recipe_name(environment)).recipe
    image.check(chosen, CATALOG.engine(chosen.engine.version), found.host)


def test_a_digest_takes_the_place_of_the_tag() -> None:
    found = image.image(recipe(f"engine.digest={DIGEST}"), ENGINE)
    assert str(found) == f"vllm/vllm-openai@{DIGEST}"
    assert found.tag == "v0.26.0"
    assert str(image.image(recipe(), ENGINE)) == "vllm/vllm-openai:v0.26.0"
