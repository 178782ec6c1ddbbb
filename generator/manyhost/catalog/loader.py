"""Reads values/ and recipes/ into typed structs.

They come with the program: in a checkout they are its own folders, an installed package carries copies. Where
the current folder has values/ or recipes/ too, its files are added, and one of the same name wins.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml12

from manyhost.catalog import chart, yaml_reader
from manyhost.catalog.capacity import CapacityFacts
from manyhost.catalog.chart import Chart
from manyhost.catalog.dynamo import Dynamo
from manyhost.catalog.engine import TITLES, Engine, GoneFlag
from manyhost.catalog.environment import Environment, contradiction
from manyhost.catalog.interconnect import GpuDirectTcp, Interconnect, Rdma, Sockets
from manyhost.catalog.merge import merge
from manyhost.catalog.model import Model
from manyhost.catalog.storage import Storage
from manyhost.catalog.struct import Exemptions
from manyhost.catalog.written import WRITTEN
from manyhost.errors import InvalidInput, nearest

if TYPE_CHECKING:
    from manyhost.catalog.performance import Anchor, PerformanceFacts
    from manyhost.catalog.scenario import Benchmark, Questions, Scenario

T = TypeVar("T")
LOCAL_FILE = "values/local.yaml"
RESERVED = "reserved-flags.yaml"
ENGINES = "engines.yaml"
REGIONS = "values/regions.yaml"
EXEMPTIONS = "values/exemptions.yaml"
CAPACITY = "values/capacity.yaml"
QUESTIONS = "values/questions.yaml"
STORAGE = "values/storage.yaml"
DYNAMO = "values/dynamo.yaml"
PERFORMANCE = "values/performance.yaml"
GONE_FLAGS = "values/engines/gone-flags.yaml"
# As the chart has it, for labels of pods.
_LABEL = 63
_RECIPE = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_HERE = Path()  # relative, so that errors name files as their owner does
_PACKAGED = Path(__file__).resolve().parents[1] / "_data"  # pyproject.toml puts it into the wheel
HOME = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).resolve().parents[3]


class Catalog:
    """All that is known about the world, read on demand and kept.

    Args:
        root: The one folder that holds values/, recipes/ and charts/; by default what comes with the program,
            below what the current folder has.

    Attributes:
        root: What comes with the program, charts/ included.
        roots: Where values/ and recipes/ are looked for; the first that has a file wins.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or HOME
        self.roots = (self.root,) if root or not _is_overlay() else (_HERE, self.root)
        self._kept: dict[tuple[str, str], Any] = {}
        self._names: dict[str, list[str]] = {}
        self._recipes: list[str] | None = None

    def environment(self, name: str) -> Environment:
        """Return an environment by name; InvalidInput when there is none."""
        found: Environment = self._load("environments", name, Environment, "environment")
        key, problem = contradiction(found)
        if problem:
            raise InvalidInput(problem, where=f"values/environments/{name}.yaml: {key}")
        return found

    def interconnect(self, name: str) -> Interconnect:
        """Return an interconnect by name; InvalidInput when there is none."""
        found: Interconnect = self._load("interconnects", name, Sockets | Rdma | GpuDirectTcp, "interconnect")
        return found

    def model(self, name: str) -> Model:
        """Return a model by name; InvalidInput when there is none."""
        found: Model = self._load("models", name, Model, "model")
        return found

    def engine(self, version: str, name: str = "vllm") -> Engine:
        """Return an engine at a version such as v0.26.0; InvalidInput when it is not in the catalog."""
        found: Engine = self._load(f"engines/{name}", version, Engine, "engine version")
        return found

    def engines(self) -> list[Engine]:
        """Return all engines at all versions."""
        return [self.engine(version, name) for name in TITLES for version in self.names(f"engines/{name}")]

    def flags(self, engine: Engine) -> dict[str, dict[str, Any]]:
        """Return the command-line flags of an engine, by name without dashes (checks.FlagTable)."""
        key = ("flags", f"{engine.name}/{engine.flags}")
        if key not in self._kept:
            path, where = self._find(f"values/engines/{engine.name}/{engine.flags}")
            try:
                # A generated file: no duplicates to look for, and this reader is seven times faster.
                document = yaml12.parse_yaml(path.read_text())
            except (OSError, ValueError) as error:
                raise InvalidInput(f"cannot be read: {error}", where=where) from None
            self._kept[key] = yaml_reader.convert(document, dict[str, dict[str, Any]], where)
        kept: dict[str, dict[str, Any]] = self._kept[key]
        return kept

    def recipe_document(self, name: str) -> dict[str, Any]:
        """Return the raw mapping of recipes/<environment>/<recipe>/recipe.yaml."""
        key = ("recipes", name)
        if key not in self._kept:
            self._kept[key] = yaml_reader.read_mapping(*self.recipe_file(name))
        kept: dict[str, Any] = self._kept[key]
        return kept

    def recipe_file(self, name: str) -> tuple[Path, str]:
        """Return the file of a recipe, <environment>/<recipe>, and how errors call it."""
        if name not in self.recipes():
            raise InvalidInput(
                f"unknown recipe {name[:80]!r}", where="recipe", fix=nearest(name, self.recipes())
            )
        return self._find(f"recipes/{name}/recipe.yaml")

    def recipes(self) -> list[str]:
        """Return the names of all recipes, as <environment>/<recipe>."""
        if self._recipes is None:
            paths = [path for root in self.roots for path in (root / "recipes").glob("*/*/recipe.yaml")]
            self._recipes = sorted({f"{path.parts[-3]}/{path.parts[-2]}" for path in paths})
        return list(self._recipes)

    def names(self, kind: str) -> list[str]:
        """Return the names of one folder of values/: environments, interconnects, models, engines/vllm."""
        if kind not in self._names:
            paths = [path for root in self.roots for path in (root / "values" / kind).glob("*.yaml")]
            self._names[kind] = sorted({path.stem for path in paths if not path.name.endswith(".flags.yaml")})
        return list(self._names[kind])

    def chart(self, name: str) -> Chart:
        """Return one of the charts that come with the program."""
        key = ("charts", name)
        if key not in self._kept:
            self._kept[key] = chart.load(self.root / "charts" / name)
        found: Chart = self._kept[key]
        return found

    def reserved_flags(self, engine: str = "vllm") -> dict[str, str]:
        """Return flags of an engine that are set elsewhere, with the setting that does it, "" for none."""
        key = ("flags", f"reserved {engine}")
        if key not in self._kept:
            path, where = self.root / "charts/llm-multihost" / RESERVED, f"charts/llm-multihost/{RESERVED}"
            document = yaml_reader.read_mapping(path, where)
            self._kept[key] = {
                flag: next(iter(WRITTEN.get(value, ())), "")
                for flag, value in (document["setBy"] | document.get(engine, {}).get("setBy", {})).items()
            }
        kept: dict[str, str] = self._kept[key]
        return kept

    def regions(self) -> list[str]:
        """Return the regions of Google Cloud."""
        return self._facts(REGIONS, dict[str, list[str]])["regions"]

    def exemptions(self) -> Exemptions:
        """Return the hardening that no release has, wherever it runs, with the reasons."""
        return self._facts(EXEMPTIONS, dict[str, Exemptions])["exemptions"]

    def capacity(self) -> CapacityFacts:
        """Return how long hosts are had, by capacity.mode."""
        return self._facts(CAPACITY, CapacityFacts)

    def scenarios(self, recipe: str) -> list[str]:
        """Return the names of the scenarios that a recipe is measured with, in order."""
        return list(self._benchmark(recipe).scenarios)

    def scenario(self, name: str, recipe: str) -> Scenario:
        """Return a scenario with the keys that a recipe's benchmark.yaml has of its own.

        Raises:
            InvalidInput: There is no such scenario, or keys of it contradict each other.
        """
        from manyhost.catalog.scenario import Scenario, scenario_problem  # noqa: PLC0415  for bench alone

        own = self._benchmark(recipe).scenarios.get(name) or {}
        self._load("scenarios", name, Scenario, "scenario")  # names its own file when that is wrong
        path, where = self._find(f"values/scenarios/{name}.yaml")
        if own:
            where = f"recipes/{recipe}/benchmark.yaml: scenarios.{name}"
        found = yaml_reader.convert(merge(yaml_reader.read_mapping(path, where), own), Scenario, where)
        key, problem = scenario_problem(found)
        if problem:
            raise InvalidInput(problem, where=f"{where}: {key}")
        return found

    def questions(self) -> Questions:
        """Return what a trained model is asked before its numbers count."""
        from manyhost.catalog.scenario import Questions  # noqa: PLC0415

        return self._facts(QUESTIONS, Questions)

    def _benchmark(self, recipe: str) -> Benchmark:
        """Return a recipe's benchmark.yaml; without one, the published run alone."""
        from manyhost.catalog.scenario import Benchmark  # noqa: PLC0415

        path, where = self._find(f"recipes/{recipe}/benchmark.yaml")
        if not os.path.lexists(path):
            return Benchmark(scenarios={"published": None})
        found = yaml_reader.convert(yaml_reader.read_mapping(path, where), Benchmark, where)
        for name in found.scenarios:
            if name not in self.names("scenarios"):
                raise InvalidInput(
                    f"unknown scenario {name[:80]!r}",
                    where=f"{where}: scenarios",
                    fix=nearest(name, self.names("scenarios")),
                )
        return found

    def storage(self) -> Storage:
        """Return what it costs to keep weights in a bucket."""
        return self._facts(STORAGE, Storage)

    def dynamo(self) -> Dynamo:
        """Return the releases of NVIDIA Dynamo and the engines that they serve with."""
        return self._facts(DYNAMO, Dynamo)

    def performance(self) -> PerformanceFacts:
        """Return the numbers of the performance model."""
        from manyhost.catalog.performance import PerformanceFacts  # noqa: PLC0415  for plan alone

        return self._facts(PERFORMANCE, PerformanceFacts)

    def anchors(self) -> list[Anchor]:
        """Return all measured points, by name."""
        from manyhost.catalog.performance import Anchor  # noqa: PLC0415

        return [self._load("anchors", name, Anchor, "anchor") for name in self.names("anchors")]

    def gone_flags(self) -> dict[str, GoneFlag]:
        """Return the flags that newer versions of vLLM no longer have, with what stands in their place."""
        return self._facts(GONE_FLAGS, dict[str, GoneFlag])

    def _facts(self, name: str, kind: type[T]) -> T:
        """Return a file of values/ that holds one thing, read once."""
        key = ("facts", name)
        if key not in self._kept:
            path, where = self._find(name)
            self._kept[key] = yaml_reader.convert(yaml_reader.read_mapping(path, where), kind, where)
        kept: T = self._kept[key]
        return kept

    def engine_recipes(self, engine: str = "vllm") -> dict[str, str]:
        """Return a recipe for each version of an engine that has one, as the chart names them too."""
        key = ("engines", f"recipes {engine}")
        if key not in self._kept:
            path, where = self.root / "charts/llm-multihost" / ENGINES, f"charts/llm-multihost/{ENGINES}"
            entries = yaml_reader.read_mapping(path, where)
            self._kept[key] = {
                version: entry["recipe"] for version, entry in entries.items() if entry["engine"] == engine
            }
        kept: dict[str, str] = self._kept[key]
        return kept

    def settings_file(self) -> Path:
        """Return where a site's settings are: beside its own values or recipes, or else in the checkout."""
        return (_HERE if self.roots[0] == _PACKAGED else self.roots[0]) / LOCAL_FILE

    def own_folder(self) -> Path:
        """Return the folder whose values/ and recipes/ take new files: this one, or the checkout around it.

        Raises:
            InvalidInput: The current folder is inside values/ or recipes/ of a folder whose files are read
                from that folder alone.
        """
        here = Path.cwd()
        inside = next((above for above in (here, *here.parents) if _holds_data(above)), None)
        if inside is None:
            return here
        if inside.parent not in {root.resolve() for root in self.roots}:
            raise InvalidInput(
                f"is in {inside.name}/ of a folder whose files are found from that folder alone",
                where=str(here)[:200],
                fix=f"go to {str(inside.parent)[:200]} first",
            )
        return inside.parent

    def asked_for(self, text: str) -> tuple[str, str]:
        """Return environment and recipe of RECIPE as people write it; an empty recipe is the default one.

        Besides <environment> and <environment>/<recipe> that is a path that the shell has completed, and
        the name of a recipe that only one environment has.

        Raises:
            InvalidInput: When several environments have a recipe of this name.
        """
        parts = text.removeprefix("./").rstrip("/").split("/")
        if len(parts) > 1 and parts[-1] in ("recipe.yaml", "values.yaml"):
            parts = parts[:-1]
        name = "/".join(parts[1:] if parts[0] == "recipes" and len(parts) > 1 else parts)
        environment, _, recipe = name.partition("/")
        if recipe or environment in self.names("environments"):
            return environment, recipe
        found = [known for known in self.recipes() if known.endswith(f"/{name}")]
        if len(found) > 1:
            raise InvalidInput(
                f"several environments have {name}", where="RECIPE", fix=f"choose one of: {', '.join(found)}"
            )
        environment, _, recipe = (found or [name])[0].partition("/")
        return environment, recipe

    def recipe_name(self, environment: str, model: str = "", recipe: str = "") -> str:
        """Return the full name of the recipe that ENV, MODEL and RECIPE pick.

        Args:
            environment: Name of an environment.
            model: Optional name of a model; picks the environment's first recipe for it.
            recipe: Optional name of a recipe within the environment.

        Raises:
            InvalidInput: When there is no such environment, or none of its recipes fits.
        """
        known = self.environment(environment)
        if recipe:
            name = f"{environment}/{recipe}"
            if name not in self.recipes():
                own = [r.split("/")[1] for r in self.recipes() if r.startswith(f"{environment}/")]
                raise InvalidInput(
                    f"environment {environment} has no recipe {recipe[:80]!r}",
                    where="RECIPE",
                    fix=nearest(recipe, own),
                )
            if len(name) > _LABEL or not _RECIPE.fullmatch(recipe):
                raise InvalidInput(
                    f"{recipe[:80]!r} is no name of a recipe",
                    where=f"recipes/{environment}",
                    fix=f"rename the folder: a-z, 0-9, . and -, {_LABEL} at the most with {environment}/",
                )
            own_model = self.recipe_document(name)["model"]
            if model and model != own_model:
                raise InvalidInput(
                    f"recipe {name} is for {own_model}, not {model[:80]!r}",
                    where="MODEL",
                    fix="leave out one of the two",
                )
            return name
        if not model:
            return f"{environment}/{known.default_recipe}"
        self.model(model)
        candidates = [f"{environment}/{known.default_recipe}", *self.recipes()]
        for name in candidates:
            if name.startswith(f"{environment}/") and self.recipe_document(name)["model"] == model:
                return name
        raise InvalidInput(f"environment {environment} has no recipe for {model}", where="MODEL")

    def _load(self, folder: str, name: str, kind: Any, word: str) -> Any:
        key = (folder, name)
        if key not in self._kept:
            if name not in self.names(folder):
                raise InvalidInput(
                    f"unknown {word} {name[:80]!r}", where=word, fix=nearest(name, self.names(folder))
                )
            path, where = self._find(f"values/{folder}/{name}.yaml")
            self._kept[key] = yaml_reader.convert(yaml_reader.read_mapping(path, where), kind, where)
        return self._kept[key]

    def _find(self, name: str) -> tuple[Path, str]:
        """Return a file and how errors call it: by its whole path where the short one would mislead."""
        # A link to nowhere counts: what comes with the program would take its place without a word.
        path = next((root / name for root in self.roots if os.path.lexists(root / name)), self.root / name)
        misleads = path.is_relative_to(self.root) and (self.root == _PACKAGED or len(self.roots) > 1)
        return path, str(path) if misleads else name


def _holds_data(folder: Path) -> bool:
    """Return whether a folder is the recipes/ or values/ of a checkout, or of somebody's own folder."""
    return (folder.name == "recipes" and any(folder.glob("*/*/recipe.yaml"))) or (
        folder.name == "values" and any(folder.glob("*/*.yaml"))
    )


def _is_overlay() -> bool:
    """Return whether the current folder adds to what comes with the program."""
    return any((_HERE / name).is_dir() for name in ("values", "recipes")) and not HOME.samefile(_HERE)
