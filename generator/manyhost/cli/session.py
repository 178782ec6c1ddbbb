"""Opening the cluster that a recipe is for: what the cluster commands have in common."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from manyhost.catalog import Catalog, Resolved
from manyhost.cli.options import pick, recipe_argument, settings_options

if TYPE_CHECKING:
    from manyhost.cluster.connection import Connection
    from manyhost.cluster.target import Target

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
        wanted = Wanted(**{name: given.pop(name) for name in Wanted._fields})
        function(wanted, **given)

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


def open_place(wanted: Wanted) -> tuple[Connection, str, str]:
    """Return the cluster, the namespace and the release of a recipe, without rendering it.

    Raises:
        InvalidInput: No such recipe.
        NotReady: No kubeconfig, or another cluster than the settings name.
    """
    from manyhost.render import release_name

    resolved, connection = _open(wanted, Catalog())
    namespace = wanted.namespace or connection.namespace
    return connection, namespace, wanted.release or release_name(resolved.name)


def open_target(wanted: Wanted) -> tuple[Connection, Target]:
    """Return the cluster and the rendered recipe.

    Raises:
        InvalidInput: No such recipe, or it cannot be rendered.
        NotReady: No kubeconfig, or another cluster than the settings name.
    """
    from manyhost.cluster.target import from_rendered
    from manyhost.render import Renderer

    catalog = Catalog()
    resolved, connection = _open(wanted, catalog)
    renderer = Renderer(catalog)
    namespace = wanted.namespace or connection.namespace
    rendered = renderer.render(resolved, release=wanted.release, namespace=namespace)
    return connection, from_rendered(rendered, renderer.chart)


def _open(wanted: Wanted, catalog: Catalog) -> tuple[Resolved, Connection]:
    from manyhost.cluster.connection import check_cluster, connect

    resolved = pick(catalog, wanted.recipe, wanted.model, wanted.assignments)
    connection = connect(wanted.context)
    site = resolved.recipe.site
    check_cluster(connection, site.cluster_name, site.project_id)
    return resolved, connection
