"""An image of one's own: built from docker/vllm by Cloud Build, and what is known of it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from manyhost.catalog import Engine, Environment, Recipe
from manyhost.catalog.engine import ImageLock
from manyhost.cluster.registry import Registry, is_google, split
from manyhost.commands import line
from manyhost.errors import Failed, InvalidInput, NotReady, RemoteError

INPUTS = "dev.manyhost.inputs"  # the label that build.sh sets
BASE = "org.opencontainers.image.base.digest"
_NAME = "vllm-openai"
_LOOK_SECONDS = 10.0
_LAST_BUILDS = 20
# Others go on (cloud.google.com/build/docs/api/reference/rest/v1/projects.builds, Status).
_ENDED = {"SUCCESS", "FAILURE", "INTERNAL_ERROR", "TIMEOUT", "CANCELLED", "EXPIRED"}
_LOG_IN = f"log in: {line('gcloud', 'auth', 'login')}"


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """The image that a build is to make.

    Attributes:
        registry: LOCATION-docker.pkg.dev/PROJECT/REPOSITORY.
        name: In that registry.
        version: Of vLLM; the image's tag.
        project: Google Cloud project; empty for gcloud's own.
        region: Of Cloud Build; empty for gcloud's own.
        base: Digest of the stock image that it is made from; empty where nobody has locked it.
    """

    registry: str
    name: str
    version: str
    project: str
    region: str
    base: str

    @property
    def repository(self) -> str:
        """The image without its tag."""
        return f"{self.registry}/{self.name}"

    def __str__(self) -> str:
        """Return the image with its tag."""
        return f"{self.repository}:{self.version}"


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What a registry has under an image's name.

    Attributes:
        state: absent, there, private (it tells us nothing) or unknown (it does not answer).
        digest: Of what is there.
        labels: Of it.
        text: The same in words.
    """

    state: str
    digest: str = ""
    labels: dict[str, str] = {}
    text: str


class Build(msgspec.Struct, frozen=True, kw_only=True):
    """A build of Cloud Build.

    Attributes:
        id: Its name.
        status: QUEUED, WORKING, SUCCESS, FAILURE, ...
        created: When it was asked for.
        finished: When it ended; empty while it goes on.
        url: Where its log is.
        digest: Of the image that it pushed; empty without one.
        why: Why it failed, in Cloud Build's words.
    """

    id: str
    status: str
    created: str = ""
    finished: str = ""
    url: str = ""
    digest: str = ""
    why: str = ""


# ------------------------------------------------------------------ decisions


def wanted(recipe: Recipe, engine: Engine, environment: Environment, folder: Path) -> Wanted:
    """Return which image a build makes for a recipe.

    Args:
        recipe: With the settings of the site.
        engine: Its vLLM.
        environment: Where it runs.
        folder: docker/vllm.

    Raises:
        InvalidInput: It cannot be built, or nobody has said where it is to go.
    """
    if not (folder / "cloudbuild.yml").is_file():
        raise InvalidInput("is not here", where=str(folder), fix="run this in a clone of manyhost")
    version, registry = recipe.engine.version, recipe.site.artifact_registry.rstrip("/")
    if not (folder / f"requirements/{version}.txt").is_file():
        known = ", ".join(sorted(path.stem for path in (folder / "requirements").glob("*.txt")))
        raise InvalidInput(
            f"docker/vllm has no list of extras for vLLM {version}",
            where="engine.version",
            fix=f"use {known}",
        )
    if environment.host.architecture != "amd64":
        raise InvalidInput(
            f"docker/vllm builds for amd64; {environment.name} is {environment.host.architecture}",
            where="environment",
            fix="use the stock image there",
        )
    above, slash, name = recipe.engine.image.rpartition("/")
    if slash:  # written by the build before, or a whole name of one's own
        registry = above
    if not registry or split(f"{registry}/x")[0] == split("x")[0]:
        raise InvalidInput(
            f"{registry} is no registry of your own" if registry else "says not where the image is to go",
            where="site.artifact_registry",
            fix="set ARTIFACT_REGISTRY to LOCATION-docker.pkg.dev/PROJECT/REPOSITORY",
        )
    if recipe.engine.tag not in ("", version):
        raise InvalidInput(
            f"{recipe.engine.tag[:80]} is not what a build is tagged with: {version}, the version of vLLM",
            where="engine.tag",
            fix="leave it out",
        )
    lock = engine.image_lock.get(version)
    return Wanted(
        registry=registry,
        name=name or _NAME,
        version=version,
        project=recipe.site.project_id,
        region=recipe.site.region,
        base=lock.digest if lock else "",
    )


def inputs(folder: Path, version: str) -> str:
    """Return the sum of the files that an image is made of, as build.sh makes it."""
    files = ("Dockerfile", "inventory.py", f"requirements/{version}.txt")
    return hashlib.sha256(b"".join((folder / name).read_bytes() for name in files)).hexdigest()


def is_same(labels: dict[str, str], files: str, base: str) -> bool:
    """Whether an image was made from these files and, where one is locked, from this base."""
    made, _, on = labels.get(INPUTS, "").partition("-")
    return made == files and (not base or on == base)


def pin(wanted: Wanted, environment: str, digest: str) -> dict[str, Any]:
    """Return the settings that make an environment's recipes run an image.

    They stand below the environment's own name: other hosts may need another image.
    """
    return {environment: {"engine": {"image": wanted.repository, "tag": wanted.version, "digest": digest}}}


def known(engine: Engine, digest: str, labels: dict[str, str]) -> ImageLock | None:
    """Return the image lock's entry of an image, or of the one it was made from; None without one."""
    digests = {digest, labels.get(BASE, "")} - {""}
    return next((entry for entry in engine.image_lock.values() if entry.digest in digests), None)


def build_of(found: dict[str, Any], image: str) -> Build:
    """Return a build from Cloud Build's own words."""
    pushed = (found.get("results") or {}).get("images") or []
    return Build(
        id=str(found["id"]),
        status=str(found.get("status", "STATUS_UNKNOWN")),
        created=str(found.get("createTime", "")),
        finished=str(found.get("finishTime", "")),
        url=str(found.get("logUrl", "")),
        digest=next((str(item.get("digest", "")) for item in pushed if item.get("name") == image), ""),
        why=str((found.get("failureInfo") or {}).get("detail", "") or found.get("statusDetail", "")),
    )


# ------------------------------------------------------------------ the registry


def standing(reference: str, token: Callable[[], str]) -> Standing:
    """Ask a registry what it has under an image's name.

    Args:
        reference: The image.
        token: Gives an access token for Google's registries; asked for only when strangers are refused.

    Raises:
        RemoteError: The registry has something there that is no image, or does not answer.
    """
    host, repository, tag = split(reference)
    registry = Registry(host)
    status, digest = registry.digest(repository, tag)
    if status in (401, 403) and is_google(host):
        registry = Registry(host, token())
        status, digest = registry.digest(repository, tag)
    if status == 200:
        labels = registry.labels(repository, digest)
        return Standing(state="there", digest=digest, labels=labels, text=f"{reference} is {digest}")
    if status == 404:
        return Standing(state="absent", text=f"{host} has no {reference}")
    if status in (401, 403):
        return Standing(state="private", text=f"{host} does not tell you about {reference}")
    raise RemoteError(f"answers {status} for {reference}", where=f"registry {host}")


# ------------------------------------------------------------------ Cloud Build


class CloudBuild:
    """Cloud Build through the gcloud command.

    The API alone would be a token and a few requests, but the sources of a build have to be packed, uploaded
    to a bucket that is made when it is missing, and paid by the right project with the right identity. gcloud
    does that as the published line does, whoever builds has it, and Cloud Shell comes with it.

    Args:
        project: Google Cloud project; empty for gcloud's own.
        region: Of Cloud Build; empty for gcloud's own.
    """

    def __init__(self, project: str, region: str) -> None:
        self._project = project
        self._region = region

    def words(self, *command: str) -> tuple[str, ...]:
        """Return a command line about builds of this project and region."""
        where = (*(("--region", self._region) if self._region else ()), *self._billed())
        return ("gcloud", *command, *where)

    def _billed(self) -> tuple[str, ...]:
        return ("--project", self._project) if self._project else ()

    def token(self) -> str:
        """Return an access token of whom gcloud is logged in as.

        Raises:
            NotReady: Nobody is.
        """
        return _run(("gcloud", "auth", "print-access-token")).strip()

    def submission(self, image: Wanted, folder: Path) -> tuple[str, ...]:
        """Return the command line that starts a build."""
        pairs = {
            "_ARTIFACT_REGISTRY": image.registry,
            "_VLLM_IMAGE": image.name,
            "_VLLM_VERSION": image.version,
        }
        return self.words(
            "builds", "submit", str(folder), "--config", str(folder / "cloudbuild.yml"),
            "--substitutions", ",".join(f"{name}={value}" for name, value in pairs.items()),
            "--async", "--format", "json",
        )  # fmt: skip

    def submit(self, image: Wanted, folder: Path) -> Build:
        """Start a build.

        Raises:
            NotReady: gcloud is missing or nobody is logged in.
            RemoteError: Cloud Build refuses it.
        """
        return build_of(_object(_run(self.submission(image, folder))), str(image))

    def log(self, build: str) -> Iterator[str]:
        """Yield the lines of a build's log as they come; what ends it early is no end of the build."""
        words = self.words("beta", "builds", "log", build, "--stream")
        with subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, errors="replace",
        ) as process:  # fmt: skip
            try:
                assert process.stdout is not None  # noqa: S101
                for text in process.stdout:
                    yield text.rstrip("\n")
            finally:
                process.terminate()

    def look(self, build: str, image: str) -> Build:
        """Return how far a build is.

        Raises:
            RemoteError: Cloud Build does not say.
        """
        return build_of(_object(_run(self.words("builds", "describe", build, "--format", "json"))), image)

    def wait(self, build: str, image: str, seconds: float = _LOOK_SECONDS) -> Build:
        """Return a build that has ended well; Cloud Build itself ends one that takes too long.

        Raises:
            Failed: It has ended in another way.
            RemoteError: Cloud Build does not say.
        """
        try:
            while (found := self.look(build, image)).status not in _ENDED:
                time.sleep(seconds)
        except RemoteError as error:
            look = line(*self.words("builds", "describe", build))
            raise RemoteError(
                error.message, where=f"build {build}", fix=f"it may go on all the same: {look} says"
            ) from None
        if found.status != "SUCCESS":
            raise Failed(
                f"ended with {found.status}{f': {found.why}' if found.why else ''}",
                where=f"build {build}",
                fix=f"its log says why: {line(*self.words('beta', 'builds', 'log', build))}",
            )
        return found

    def last(self, image: str) -> Build | None:
        """Return the newest of the last builds that makes an image; None without one.

        Raises:
            NotReady: gcloud is missing or nobody is logged in.
            RemoteError: Cloud Build does not say.
        """
        words = (
            "builds",
            "list",
            "--filter",
            "tags=manyhost",
            "--limit",
            str(_LAST_BUILDS),
            "--format",
            "json",
        )
        found = json.loads(_run(self.words(*words)) or "[]")
        return next((build_of(item, image) for item in found if image in (item.get("images") or ())), None)


def _object(text: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(text)
        found["id"]
    except (ValueError, KeyError, TypeError):
        raise RemoteError("answers with no build", where="Cloud Build") from None
    return found


def _run(words: tuple[str, ...]) -> str:
    """Return what gcloud prints; it may ask nothing, since nobody would hear it."""
    name = " ".join(words[:3])
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise NotReady(
            "is not installed", where="gcloud", fix="install it (https://cloud.google.com/sdk/docs/install)"
        ) from None
    if done.returncode:
        said = [text for text in done.stderr.splitlines() if text.strip()]
        why = next((text for text in said if text.startswith("ERROR:")), said[-1] if said else "")
        message = why.removeprefix("ERROR:").strip()[:300] or f"ends with code {done.returncode}"
        if "auth login" in done.stderr:
            raise NotReady("is not logged in", where=words[0], fix=_LOG_IN)
        raise RemoteError(message, where=name)
    return done.stdout
