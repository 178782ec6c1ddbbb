"""Recipe → plan → values → manifests → checks, in memory."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import msgspec
import yaml12

from manyhost import checks
from manyhost.catalog import Catalog, Engine, Environment, Recipe, Resolved, resolve
from manyhost.errors import InvalidInput, nearest
from manyhost.plan import Plan, make_plan, table
from manyhost.render.helm import HelmEngine, InProcess
from manyhost.render.refusal import ChartRefusal, in_settings
from manyhost.render.shell import shell_problems
from manyhost.render.topology import topology_svg
from manyhost.render.values import parse_values, values_text

__all__ = ["Rendered", "Renderer", "allowance", "build"]

CHART = Path("charts/llm-multihost")
_ERROR_LIMIT = 1500  # a finding may quote a value that nobody meant


class Rendered(msgspec.Struct, frozen=True, kw_only=True):
    """A recipe, rendered and checked.

    Attributes:
        plan: What the recipe resolved to.
        values_text: values.yaml, with a comment per block that says where it came from.
        values: The same, parsed.
        manifests_text: What Helm made of it.
        objects: The same, parsed.
        findings: What the checks found, warnings only: errors stop the build.
    """

    plan: Plan
    release: str
    namespace: str
    values_text: str
    values: dict[str, Any]
    manifests_text: str
    objects: list[dict[str, Any]]
    findings: list[checks.Finding]

    def files(self) -> dict[str, bytes]:
        """Return the files of a build folder by name; the same bytes for the same input."""
        return {
            "values.yaml": self.values_text.encode(),
            "manifests.yaml": self.manifests_text.encode(),
            "plan.json": table.to_json(self.plan),
            "topology.svg": topology_svg(self.plan),
        }


class Renderer:
    """Renders any number of recipes with one catalog and one loaded chart.

    Args:
        catalog: Where recipes and facts are read from.
        engine: The Helm engine; in process when None.
    """

    def __init__(self, catalog: Catalog | None = None, engine: HelmEngine | None = None) -> None:
        self.catalog = catalog or Catalog()
        self.chart = self.catalog.root / CHART
        self._engine = engine
        self._flags: dict[str, checks.FlagTable] = {}
        self._scripts: frozenset[str] | None = None

    @property
    def engine(self) -> HelmEngine:
        """The Helm engine, loaded when first needed: a refused plan never pays for it."""
        if self._engine is None:
            self._engine = InProcess(self.chart)
        return self._engine

    def plan(self, resolved: Resolved) -> Plan:
        """Return the plan of a resolved recipe; InvalidInput when it cannot work."""
        recipe = resolved.recipe
        folder = resolved.name.split("/", 1)[0]
        if folder != recipe.environment:
            raise InvalidInput(
                f"the recipe lies under {folder!r} but {recipe.environment[:80]!r} is named",
                where=f"{resolved.origin('environment')}: environment",
                fix="choose another recipe: manyhost list",
            )
        environment = self.catalog.environment(recipe.environment)
        fabric = recipe.network.interconnect or environment.interconnects[0]
        if fabric not in environment.interconnects:
            raise InvalidInput(
                f"environment {environment.name} has no interconnect {fabric[:80]!r}",
                where=f"{resolved.origin('network.interconnect')}: network.interconnect",
                fix=nearest(fabric, environment.interconnects),
            )
        return make_plan(
            resolved,
            environment,
            self.catalog.interconnect(fabric),
            self.catalog.model(recipe.model),
            self.catalog.engine(recipe.engine.version),
        )

    def render(self, resolved: Resolved, *, release: str = "", namespace: str = "default") -> Rendered:
        """Plan, render and check.

        Args:
            resolved: The recipe with its settings.
            release: Name of the Helm release; the recipe's own name by default.
            namespace: Namespace of the release.

        Raises:
            InvalidInput: When the plan, the chart or a check refuses it.
        """
        plan = self.plan(resolved)
        release = release or release_name(plan.recipe)
        text = values_text(plan)
        values = parse_values(text)
        try:
            manifests = self.engine.render(values, release=release, namespace=namespace)
        except ChartRefusal as refusal:
            raise in_settings(refusal, values, plan.origin) from None
        objects = parse_manifests(manifests)
        findings = self.check(objects, plan)
        errors = [finding for finding in findings if finding.severity == "error"]
        if errors:
            more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
            text = str(errors[0])
            text = text if len(text) <= _ERROR_LIMIT else f"{text[:_ERROR_LIMIT]}..."
            raise InvalidInput(f"{text}{more}", where=f"recipe {plan.recipe}")
        return Rendered(
            plan=plan,
            release=release,
            namespace=namespace,
            values_text=text,
            values=values,
            manifests_text=manifests,
            objects=objects,
            findings=findings,
        )

    def check(self, objects: list[dict[str, Any]], plan: Plan) -> list[checks.Finding]:
        """Run every check on manifests of a plan."""
        return checks.run(
            objects,
            flags=self.flag_table(plan.engine),
            environment_level=allowance(plan.environment, _settings_on(plan.settings)),
            shell=shell_problems,
            shipped_scripts=self.shipped_scripts(),
        )

    def flag_table(self, engine: Engine) -> checks.FlagTable:
        """Return the flags of an engine version as the checks want them."""
        if engine.version not in self._flags:
            self._flags[engine.version] = checks.FlagTable(engine.version, self.catalog.flags(engine))
        return self._flags[engine.version]

    def shipped_scripts(self) -> frozenset[str]:
        """Return the texts of the scripts that the chart ships."""
        if self._scripts is None:
            files = (self.chart / "launcher").rglob("*")
            self._scripts = frozenset(path.read_text() for path in files if path.suffix in {".py", ".sh"})
        return self._scripts


def allowance(environment: Environment, on: Collection[str]) -> checks.Allowance:
    """Return what an environment allows its pods, as the checks want it.

    Args:
        environment: Lists the departures from the baseline.
        on: Keys of the settings that are on; a departure that goes with another is not allowed.
    """
    security = environment.security
    allowed = [entry.violation for entry in security.violations if not entry.when or entry.when in on]
    return checks.Allowance(security.level, frozenset(allowed))


def _settings_on(recipe: Recipe) -> set[str]:
    """Return the keys with which an environment may allow more."""
    on = {"network.host_network"} if recipe.network.host_network else set()
    return on | {key for key in ("ssd_host_path", "host_mounts") if getattr(recipe, key)}


def release_name(recipe: str) -> str:
    """Return the default release name of a recipe: its own name without the environment."""
    return recipe.rsplit("/", 1)[-1].replace(".", "-")[:45].strip("-")


def parse_manifests(text: str) -> list[dict[str, Any]]:
    """Parse rendered manifests; the fast reader will do for what Helm has written."""
    documents = cast("list[dict[str, Any]]", yaml12.parse_yaml(text, multi=True))
    return [document for document in documents if document]


def build(
    recipe: str,
    *,
    variables: Mapping[str, str] | None = None,
    assignments: Iterable[str] = (),
    local_file: Path | None = None,
    release: str = "",
    namespace: str = "default",
) -> Rendered:
    """Render one recipe by name with its settings; see Renderer.render and catalog.resolve."""
    renderer = Renderer()
    resolved = resolve(
        renderer.catalog, recipe, variables=variables, assignments=assignments, local_file=local_file
    )
    return renderer.render(resolved, release=release, namespace=namespace)
