"""Opening the cluster that a recipe is for: what the cluster commands have in common."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from manyhost.catalog import Catalog, Environment, Recipe, Resolved
from manyhost.cli.options import pick, recipe_argument, settings_options
from manyhost.commands import Commands, manyhost
from manyhost.errors import RemoteError

if TYPE_CHECKING:
    from manyhost.cluster.connection import Connection
    from manyhost.cluster.nodes import Node, Pool
    from manyhost.cluster.target import Place, Target

F = TypeVar("F", bound=Callable[..., Any])


class Wanted(NamedTuple):
    """What a cluster command is asked to work on.

    Attributes:
        recipe: <environment> or <environment>/<recipe>.
        model: The model that picks the recipe; may be empty.
        assignments: The settings on the command line, KEY=VALUE.
        release: Name of the release; empty for the recipe's.
        namespace: Its namespace; empty for the context's.
        context: The kubeconfig context; empty for the current one.
    """

    recipe: str
    model: str
    assignments: tuple[str, ...]
    release: str
    namespace: str
    context: str


def place_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add RECIPE and the options that say what of it and where; the command receives one Wanted, first."""

    @functools.wraps(function)
    def command(**given: Any) -> None:
        function(Wanted(**{name: given.pop(name) for name in Wanted._fields}), **given)

    texts = {
        "--context": "kubeconfig context; the current one by default.",
        "--namespace": "Namespace; the context's by default.",
        "--release": "Release name; the recipe's by default.",
    }
    for name, text in texts.items():
        click.option(name, default="", metavar="NAME", help=text)(command)
    return recipe_argument(settings_options(command))


def timeout_option(text: str) -> Callable[[F], F]:
    """Add --timeout in seconds; the command receives it as timeout, None when not given."""
    return click.option("--timeout", type=click.FloatRange(min=1), metavar="SECONDS", help=text)


class Opened(NamedTuple):
    """The place of a recipe's release, and what the recipe says of its hosts; nothing is rendered.

    Attributes:
        connection: The cluster.
        place: The release.
        resolved: The recipe with all settings.
        environment: Where it runs.
    """

    connection: Connection
    place: Place
    resolved: Resolved
    environment: Environment

    @property
    def recipe(self) -> Recipe:
        """The recipe with all settings."""
        return self.resolved.recipe

    def target(self) -> Target:
        """Render the recipe.

        Raises:
            InvalidInput: It cannot be rendered.
        """
        from manyhost.cluster.target import from_rendered
        from manyhost.render import Renderer

        place = self.place
        return from_rendered(
            Renderer(Catalog()).render(self.resolved, release=place.release, namespace=place.namespace)
        )


def nodes_of(opened: Opened) -> list[Node] | None:
    """Return the nodes that a recipe selects, on GKE only; None when they could not be read."""
    from manyhost.catalog.environment import Gke
    from manyhost.cluster.nodes import selected

    platform = opened.environment.platform
    if not isinstance(platform, Gke):
        return []
    try:
        return selected(opened.connection, {**platform.node_selector, **opened.recipe.node_selector})
    except RemoteError:  # people of one namespace may not read nodes
        return None


def pools_of(opened: Opened, nodes: list[Node] | None) -> list[Pool] | None:
    """Return the node pools of the nodes that a recipe selects; None when they could not be read."""
    from manyhost.cluster import gke
    from manyhost.cluster.nodes import pools
    from manyhost.plan.cost import cost

    if not nodes:
        return None if nodes is None else []
    named = gke.named(opened.recipe.site, opened.connection.context)
    price = cost(opened.recipe, opened.environment, 1)
    try:
        return pools(opened.connection, opened.place, nodes, price, named)
    except RemoteError:  # nor all pods
        return None


def pool_lines(pools: Iterable[Pool]) -> Iterator[str]:
    """Say of each node pool what it costs and who uses it."""
    from manyhost.cluster.nodes import describe

    for pool in pools:
        text, fix = describe(pool)
        yield text
        if fix:
            yield f"  fix: {fix}"


def open_place(wanted: Wanted) -> tuple[Connection, Place]:
    """Return the cluster and the place of a recipe's release; see open_release."""
    opened = open_release(wanted)
    return opened.connection, opened.place


def open_release(wanted: Wanted) -> Opened:
    """Return the cluster and the place of a recipe's release, without rendering it.

    Raises:
        InvalidInput: No such recipe.
        NotReady: No kubeconfig, or another cluster than the settings name.
    """
    from manyhost.catalog.passthrough import CHART
    from manyhost.cluster.target import Place
    from manyhost.render import release_name

    catalog = Catalog()
    resolved, connection = _open(wanted, catalog)
    chart = catalog.chart(CHART)
    usual = release_name(resolved.name, chart)
    place = Place(chart, wanted.namespace or connection.namespace, wanted.release or usual)
    _advise(connection, wanted, resolved, place, usual)
    return Opened(connection, place, resolved, catalog.environment(resolved.recipe.environment))


def open_target(wanted: Wanted) -> tuple[Connection, Target]:
    """Return the cluster and the rendered recipe.

    Raises:
        InvalidInput: No such recipe, or it cannot be rendered.
        NotReady: No kubeconfig, or another cluster than the settings name.
    """
    from manyhost.cluster.target import from_rendered
    from manyhost.render import Renderer, release_name

    catalog = Catalog()
    resolved, connection = _open(wanted, catalog)
    renderer = Renderer(catalog)
    namespace = wanted.namespace or connection.namespace
    target = from_rendered(renderer.render(resolved, release=wanted.release, namespace=namespace))
    _advise(connection, wanted, resolved, target.place, release_name(resolved.name, target.chart))
    return connection, target


def _advise(
    connection: Connection, wanted: Wanted, resolved: Resolved, place: Place, usual_release: str
) -> None:
    """Let the connection's commands be about this release, as the user has asked for it."""
    connection.commands = Commands(
        context=connection.context if wanted.context or resolved.recipe.site.cluster_name else "",
        namespace=place.namespace,
        recipe=resolved.name if wanted.model else wanted.recipe,
        release="" if place.release == usual_release else place.release,
        settings=wanted.assignments,
    )


def require_kubernetes(environment: Environment) -> None:
    """Refuse an environment that commands on a cluster have nothing to say of.

    Raises:
        InvalidInput: Its platform is no Kubernetes.
    """
    from manyhost.catalog.environment import RunPod
    from manyhost.errors import InvalidInput

    if isinstance(environment.platform, RunPod):
        raise InvalidInput(
            f"environment {environment.name} is no Kubernetes cluster",
            where="environment",
            fix=f"{manyhost('runpod', 'plan', environment.name)} says what it would cost there, "
            f"and {manyhost('runpod', '--help')} what else there is",
        )


def _open(wanted: Wanted, catalog: Catalog) -> tuple[Resolved, Connection]:
    from manyhost.cluster.connection import check_cluster, connect

    resolved = pick(catalog, wanted.recipe, wanted.model, wanted.assignments)
    require_kubernetes(catalog.environment(resolved.recipe.environment))
    connection = connect(wanted.context, resolved.recipe.site)
    check_cluster(connection, resolved.recipe.site)
    return resolved, connection
