"""Recipe → plan → values → manifests → checks, in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import msgspec
import yaml12

from manyhost import checks
from manyhost.catalog import Catalog, Engine, Resolved, resolve
from manyhost.catalog.chart import Chart
from manyhost.catalog.engine import TITLES
from manyhost.catalog.environment import RunPod
from manyhost.catalog.passthrough import CHART
from manyhost.errors import InvalidInput, first
from manyhost.plan import Plan, make_plan, table
from manyhost.plan.arguments import derived
from manyhost.plan.security import Allowed
from manyhost.render.helm import HelmEngine, InProcess, check_names
from manyhost.render.launch import launch_json
from manyhost.render.refusal import ChartRefusal, in_settings
from manyhost.render.shell import shell_problems
from manyhost.render.topology import topology_svg
from manyhost.render.values import parse_values, values_text

__all__ = ["Rendered", "Renderer", "allowance", "build"]

_ERROR_LIMIT = 1500  # a finding may quote a value that nobody meant


class Rendered(msgspec.Struct, frozen=True, kw_only=True):
    """A recipe, rendered and checked.

    Attributes:
        plan: What the recipe resolved to.
        chart: The chart that was rendered.
        values_text: values.yaml, with a comment per block that says where it came from.
        values: The same, parsed.
        manifests_text: What Helm made of it.
        objects: The same, parsed.
        findings: What the checks found, warnings only: errors stop the build.
    """

    plan: Plan
    chart: Chart
    release: str
    namespace: str
    values_text: str
    values: dict[str, Any]
    manifests_text: str
    objects: list[dict[str, Any]]
    findings: list[checks.Finding]

    def files(self) -> dict[str, bytes]:
        """Return the files of a build folder by name; the same bytes for the same input."""
        common = {"plan.json": table.to_json(self.plan), "topology.svg": topology_svg(self.plan)}
        if isinstance(self.plan.environment.platform, RunPod):
            return {"launch.json": launch_json(self.plan), **common}
        return {
            "values.yaml": self.values_text.encode(),
            "manifests.yaml": self.manifests_text.encode(),
            **common,
        }


class Renderer:
    """Renders any number of recipes with one catalog and one loaded chart.

    Args:
        catalog: Where recipes and facts are read from.
        engine: The Helm engine; in process when None.
    """

    def __init__(self, catalog: Catalog | None = None, engine: HelmEngine | None = None) -> None:
        self.catalog = catalog or Catalog()
        self.chart = self.catalog.chart(CHART)
        self._engine = engine
        self._flags: dict[str, checks.FlagTable] = {}
        self._scripts: frozenset[str] | None = None

    @property
    def engine(self) -> HelmEngine:
        """The Helm engine, loaded when first needed: a refused plan never pays for it."""
        if self._engine is None:
            self._engine = InProcess(self.chart.path)
        return self._engine

    def plan(self, resolved: Resolved) -> Plan:
        """Return the plan of a resolved recipe; InvalidInput when it cannot work."""
        return make_plan(resolved, self.catalog)

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
        release = release or release_name(plan.recipe, self.chart)
        check_names(release, namespace, self.chart.name_limit)
        if isinstance(plan.environment.platform, RunPod):
            return self._without_helm(plan, release, namespace)
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
            raise first([_in_settings(finding, plan) for finding in errors])
        return Rendered(
            plan=plan,
            chart=self.chart,
            release=release,
            namespace=namespace,
            values_text=text,
            values=values,
            manifests_text=manifests,
            objects=objects,
            findings=findings,
        )

    def _without_helm(self, plan: Plan, release: str, namespace: str) -> Rendered:
        """A platform that is no Kubernetes has no use for values of a chart."""
        if plan.settings.chart:
            raise InvalidInput(
                f"environment {plan.environment.name} is no Kubernetes: no chart reads it",
                where=f"{plan.origin('chart')}: chart",
                fix="remove it",
            )
        return Rendered(
            plan=plan,
            chart=self.chart,
            release=release,
            namespace=namespace,
            values_text="",
            values={},
            manifests_text="",
            objects=[],
            findings=[],
        )

    def check(self, objects: list[dict[str, Any]], plan: Plan) -> list[checks.Finding]:
        """Run every check on manifests of a plan."""
        return checks.run(
            objects,
            flags=self.flag_table(plan.engine),
            environment_level=allowance(plan.allowed),
            shell=shell_problems,
            shipped_scripts=self.shipped_scripts(),
        )

    def flag_table(self, engine: Engine) -> checks.FlagTable:
        """Return the flags of an engine version as the checks want them."""
        if str(engine) not in self._flags:
            self._flags[str(engine)] = checks.FlagTable(
                engine.version, self.catalog.flags(engine), tuple(engine.executors), TITLES[engine.name]
            )
        return self._flags[str(engine)]

    def shipped_scripts(self) -> frozenset[str]:
        """Return the texts of the scripts that the chart ships."""
        if self._scripts is None:
            files = (self.chart.path / "launcher").rglob("*")
            self._scripts = frozenset(path.read_text() for path in files if path.suffix in {".py", ".sh"})
        return self._scripts


def _in_settings(finding: checks.Finding, plan: Plan) -> InvalidInput:
    """Return a finding of the checks, with the setting behind it where it is about an engine flag."""
    given = {
        "arguments": plan.settings.arguments,
        "roles.prefill.arguments": plan.settings.roles.prefill.arguments,
        "roles.decode.arguments": plan.settings.roles.decode.arguments,
    }
    keys = [
        f"{place}.{name}"
        for place, arguments in given.items()
        for name in arguments
        if finding.flag and finding.flag in (name, f"no-{name}")
    ]
    if not keys and finding.flag in (follow := derived(plan.engine)):
        keys = [follow[finding.flag]]
    if not keys:
        return InvalidInput(_shortened(str(finding)), where=f"recipe {plan.recipe}")
    where = " and ".join(f"{plan.origin(key)}: {key}" for key in keys)
    return InvalidInput(_shortened(finding.message), where=where, fix=finding.fix)


def _shortened(text: str) -> str:
    return text if len(text) <= _ERROR_LIMIT else f"{text[:_ERROR_LIMIT]}..."


def allowance(allowed: Allowed) -> checks.Allowance:
    """Return what pods may do, as the checks want it."""
    return checks.Allowance(allowed.level, frozenset(allowed.violations), frozenset(allowed.exemptions))


def release_name(recipe: str, chart: Chart) -> str:
    """Return the default release name of a recipe: its own name without the environment."""
    return recipe.rsplit("/", 1)[-1].replace(".", "-")[: chart.name_limit].strip("-")


def parse_manifests(text: str) -> list[dict[str, Any]]:
    """Parse rendered manifests; the fast reader will do for what Helm has written."""
    documents = cast("list[dict[str, Any]]", yaml12.parse_yaml(text, multi=True))
    return [document for document in documents if document]


def planned_values(resolved: Resolved, catalog: Catalog) -> dict[str, Any]:
    """Return the Helm values of a resolved recipe, without rendering them; none where no chart is used."""
    plan = make_plan(resolved, catalog)
    return {} if isinstance(plan.environment.platform, RunPod) else parse_values(values_text(plan))


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
