"""Opening the cluster that a recipe is for: what the cluster commands have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from manyhost.catalog import Catalog
from manyhost.cli.options import pick

if TYPE_CHECKING:
    from manyhost.cluster.connection import Connection
    from manyhost.cluster.target import Target

F = TypeVar("F", bound=Callable[..., Any])


def place_options(function: F) -> F:
    """Add --release, --namespace and --context; the command receives them under these names."""
    function = click.option(
        "--context", default="", metavar="NAME", help="kubeconfig context; the current one by default."
    )(function)
    function = click.option(
        "--namespace", default="", metavar="NAME", help="Namespace; the context's by default."
    )(function)
    return click.option(
        "--release", default="", metavar="NAME", help="Release name; the recipe's by default."
    )(function)


def timeout_option(text: str) -> Callable[[F], F]:
    """Add --timeout in seconds; the command receives it as timeout, None when not given."""
    return click.option("--timeout", type=click.FloatRange(min=1), metavar="SECONDS", help=text)


def open_place(
    recipe: str, model: str, assignments: tuple[str, ...], *, release: str, namespace: str, context: str
) -> tuple[Connection, str, str]:
    """Return the cluster, the namespace and the release of a recipe, without rendering it.

    Raises:
        InvalidInput: No such recipe.
        NotReady: No kubeconfig, or another cluster than the settings name.
    """
    from manyhost.cluster.connection import check_cluster, connect
    from manyhost.render import release_name

    resolved = pick(Catalog(), recipe, model, assignments)
    connection = connect(context)
    site = resolved.recipe.site
    check_cluster(connection, site.cluster_name, site.project_id)
    return connection, namespace or connection.namespace, release or release_name(resolved.name)


def open_target(
    recipe: str, model: str, assignments: tuple[str, ...], *, release: str, namespace: str, context: str
) -> tuple[Connection, Target]:
    """Return the cluster and the rendered recipe.

    Raises:
        InvalidInput: No such recipe, or it cannot be rendered.
        NotReady: No kubeconfig, or another cluster than the settings name.
    """
    from manyhost.cluster.connection import check_cluster, connect
    from manyhost.cluster.target import from_rendered
    from manyhost.render import Renderer

    catalog = Catalog()
    resolved = pick(catalog, recipe, model, assignments)
    connection = connect(context)
    site = resolved.recipe.site
    check_cluster(connection, site.cluster_name, site.project_id)
    renderer = Renderer(catalog)
    rendered = renderer.render(resolved, release=release, namespace=namespace or connection.namespace)
    return connection, from_rendered(rendered, renderer.chart)


def emit(item: Any) -> None:
    """Print one JSON line."""
    import msgspec

    click.echo(msgspec.json.encode(item).decode())
