"""The engine's image: what it can start, and on which CPUs."""

from __future__ import annotations

import msgspec
import pytest
from manyhost.catalog import Catalog, Engine, Environment, Recipe, resolve
from manyhost.catalog.engine import ImageLock
from manyhost.errors import InvalidInput
from manyhost.plan import image, make_plan
from manyhost.plan.facts import Facts, join

from tests.helpers.cli import RECIPE, ROOT

CATALOG = Catalog(ROOT)
ENGINE = CATALOG.engine("v0.26.0")
# The version whose images most is known of: two tags, a digest.
VERSION = f"engine.version={ENGINE.version}"
FACTS = join(resolve(CATALOG, RECIPE, assignments=[VERSION]), CATALOG)
A3MEGA, A4X = CATALOG.environment("a3mega"), CATALOG.environment("a4x")
BOTH = msgspec.structs.replace(ENGINE, image_lock={"v0.26.0": ImageLock(architectures=["amd64", "arm64"])})
INTEL = msgspec.structs.replace(ENGINE, image_lock={"v0.26.0": ImageLock(architectures=["amd64"])})
DIGEST = f"sha256:{'a' * 64}"
READ = ENGINE.image_lock["v0.26.0"].digest


def facts(engine: Engine, environment: Environment) -> Facts:
    return msgspec.structs.replace(FACTS, engine=engine, environment=environment)


def recipe(*assignments: str, **variables: str) -> Recipe:
    return resolve(CATALOG, RECIPE, assignments=[VERSION, *assignments], variables=variables).recipe


def test_an_image_for_other_cpus_is_refused_before_a_host_pulls_it() -> None:
    image.check(recipe(), facts(INTEL, A3MEGA))
    image.check(recipe(), facts(BOTH, A4X))
    with pytest.raises(InvalidInput) as caught:
        image.check(recipe(), facts(INTEL, A4X))
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
    image.check(recipe(*assignments, **variables), facts(INTEL, A4X))


@pytest.mark.parametrize(
    ("assignments", "variables", "cuda"),
    [
        ((), {}, "13.0"),
        (("engine.tag=v0.26.0-cu129",), {}, "12.9"),
        (("engine.tag=v0.26.0-other",), {}, ""),
        ((f"engine.digest={DIGEST}",), {}, ""),
        ((f"engine.digest={READ}",), {}, "13.0"),
        ((f"engine.digest={READ}", "engine.image=o/vllm"), {}, "13.0"),
        (("engine.image=o/vllm",), {}, ""),
        ((), {"ARTIFACT_REGISTRY": "eu.pkg.dev/p/r"}, ""),
    ],
)
def test_only_what_somebody_has_read_is_known_of_an_image(
    assignments: tuple[str, ...], variables: dict[str, str], cuda: str
) -> None:
    assert image.lock(recipe(*assignments, **variables), ENGINE).cuda == cuda


@pytest.mark.parametrize("environment", CATALOG.names("environments"))
def test_every_default_recipe_has_an_image_for_its_hosts(environment: str) -> None:
    chosen = resolve(CATALOG, CATALOG.recipe_name(environment))
    image.check(chosen.recipe, join(chosen, CATALOG))


def test_a_digest_takes_the_place_of_the_tag() -> None:
    found = image.image(recipe(f"engine.digest={DIGEST}"), ENGINE)
    assert str(found) == f"vllm/vllm-openai@{DIGEST}"
    assert found.tag == "v0.26.0"
    assert str(image.image(recipe(), ENGINE)) == "vllm/vllm-openai:v0.26.0"


PUBLISHED = "a3mega/deepseek-r1-671b-published"


@pytest.mark.parametrize(
    ("assignments", "variables", "where", "words"),
    [
        ((), {"VLLM_VERSION": "v0.7.3"}, "environment variable VLLM_VERSION: engine.version", "not with mp"),
        (
            ("engine.version=v0.7.3",),
            {},
            "--set: engine.version",
            "starts several hosts with ray, not with mp",
        ),
        (("engine.tag=v0.7.3",), {}, "--set: engine.tag", "v0.7.3 is not vLLM v0.33.0"),
        (("engine.tag=0.7.3",), {}, "--set: engine.tag", "0.7.3 is not vLLM v0.33.0"),
        (("engine.tag=v0.7.3",), {"ARTIFACT_REGISTRY": "eu.pkg.dev/p/r"}, "--set: engine.tag", "is not vLLM"),
    ],
)
def test_another_engine_than_the_recipes_names_the_recipe_that_fits(
    assignments: tuple[str, ...], variables: dict[str, str], where: str, words: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        make_plan(resolve(CATALOG, RECIPE, assignments=assignments, variables=variables), CATALOG)
    assert caught.value.where == where
    assert words in caught.value.message
    assert caught.value.fix.endswith(f"use the recipe {PUBLISHED}")


@pytest.mark.parametrize(
    "assignments",
    [
        ("engine.tag=v0.26.0-cu129",),
        ("engine.tag=v0.26.0rc1",),
        ("engine.tag=v0.27.1", "engine.image=o/vllm"),
    ],
)
def test_a_build_of_the_same_version_and_ones_own_image_are_taken(assignments: tuple[str, ...]) -> None:
    image.check(recipe(*assignments), FACTS)


def test_a_version_that_nobody_knows_needs_an_image_of_its_own() -> None:
    with pytest.raises(InvalidInput, match=r"v0\.19\.0 is not vLLM v0\.26\.0") as caught:
        image.check(recipe("engine.tag=v0.19.0"), FACTS)
    assert "engine.image" in caught.value.fix


@pytest.mark.parametrize(
    ("assignment", "message", "fix"),
    [
        ("engine.image=https://hub.docker.com/r/vllm", "is a web address", "write hub.docker.com/r/vllm"),
        ("engine.image=o/vllm:v1", "ends with a tag", "write o/vllm, and engine.tag=v1"),
        ("engine.image=vllm:v1", "ends with a tag", "write vllm, and engine.tag=v1"),
        (f"engine.image=o/vllm@{DIGEST}", "ends with a digest", f"engine.digest={DIGEST}"),
        ("engine.image=vllm/VLLM-openai", "has upper case", "write vllm/vllm-openai"),
        (
            "engine.image=vllm-openai",
            "vllm-openai alone is docker.io/library/vllm-openai",
            "vllm/vllm-openai",
        ),
        ("engine.image=o//vllm", "is not written like the name of an image", "vllm/vllm-openai"),
        ("site.artifact_registry=https://eu.pkg.dev/p/r", "is a web address", "write eu.pkg.dev/p/r"),
        ("site.artifact_registry=eu.pkg.dev/P/r", "has upper case", "write eu.pkg.dev/p/r"),
        ("engine.tag=latest", "does not pin a version", "v0.33.0"),
        ("engine.tag=nightly", "does not pin a version", "v0.33.0"),
        ("engine.tag=nightly-x86_64", "does not pin a version", "v0.33.0"),
        ("engine.tag=nightly-0123abc", "is none of the versions whose flags", "engine.image"),
    ],
)
def test_an_image_that_no_runtime_would_pull_as_meant(assignment: str, message: str, fix: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        make_plan(resolve(CATALOG, RECIPE, assignments=[assignment]), CATALOG)
    assert caught.value.where == f"--set: {assignment.partition('=')[0]}"
    assert message in caught.value.message
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    "assignments",
    [
        ("engine.image=localhost:5000/vllm",),
        ("site.artifact_registry=localhost:5000",),
        ("engine.image=Registry.example/a/b__c.d-e",),
        ("engine.image=vllm-openai", "site.artifact_registry=eu.pkg.dev/p/r/"),
        ("engine.image=o/vllm", "engine.tag=nightly-0123abc"),
        ("engine.tag=nightly", f"engine.digest={DIGEST}"),
    ],
)
def test_images_that_a_runtime_pulls(assignments: tuple[str, ...]) -> None:
    image.check(recipe(*assignments), FACTS)


def test_a_digest_pinned_for_one_version_is_not_taken_by_a_recipe_of_another() -> None:
    """values/local.yaml pins an image for an environment, which may have a recipe of another version."""
    pinned = ("engine.image=eu.pkg.dev/p/r/vllm-openai", 'engine.tag="v0.26.0"', f"engine.digest={DIGEST}")
    image.check(recipe(*pinned), FACTS)
    image.check(recipe(*pinned[:1], 'engine.tag="v0.26.0-mine"', pinned[2]), FACTS)  # a tag of one's own
    other = resolve(CATALOG, "a3mega/deepseek-r1-671b-published", assignments=pinned)
    with pytest.raises(InvalidInput) as caught:
        image.check(other.recipe, join(other, CATALOG))
    assert caught.value.message == "v0.26.0 is not vLLM v0.7.3, which engine.version says"
    assert caught.value.where == "engine.tag"
    assert "engine.digest" in caught.value.fix
