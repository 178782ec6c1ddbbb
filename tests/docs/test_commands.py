"""Every command in the documentation exists: programs, targets, options, keys and paths."""

from __future__ import annotations

import json
import re
import shlex
from itertools import pairwise
from pathlib import Path

import click
import pytest
from manyhost import cli
from manyhost.catalog.settings import VARIABLES, known_keys

from testbed import gcloud
from tests.docs.test_links import documents
from tools.command_lines import command_lines

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = documents()
MAKEFILE = (ROOT / "Makefile").read_text()
# Programs that documents may use beside our own; what they do is theirs.
FOREIGN = {
    "hf", "locust", "cd", "git", "openssl", "sudo", "apt-get", "gsutil", "docker", "kind",
    "prometheus", "grafana",
}  # fmt: skip
KUBECTL = {"annotate", "apply", "cordon", "create", "delete", "get", "logs", "port-forward", "wait"}
# Variables of documents that are no settings.
OTHER_VARIABLES = {
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "GF_PATHS_PROVISIONING", "HF_TOKEN", "KUBECONFIG",
    "PROJECT_NUMBER", "RUNPOD_API_KEY", "VLLM_API_KEY",
}  # fmt: skip


def commands() -> list[tuple[str, str]]:
    """Return (document, command line) for each line of each sh block, continuation lines joined."""
    return [
        (path.relative_to(ROOT).as_posix(), line.text)
        for path in DOCUMENTS
        for line in command_lines(path.read_text())
    ]


def targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z0-9-]*):.*##", MAKEFILE, re.M))


def test_the_documents_hold_commands() -> None:
    assert len(commands()) > 10


def inner(line: str) -> tuple[str, list[str]]:
    """A line with a word for each command substitution, and the commands in them."""
    found = []
    while (start := line.find("$(")) >= 0:
        depth = end = 0
        for end in range(start + 1, len(line)):
            depth += {"(": 1, ")": -1}.get(line[end], 0)
            if not depth:
                break
        assert not depth, f"no end of $( in {line}"
        found.append(line[start + 2 : end])
        line = f"{line[:start]}x{line[end + 1 :]}"
    return line, found


@pytest.mark.parametrize(("document", "line"), commands())
def test_command(document: str, line: str) -> None:
    line, substitutions = inner(line.replace("<walkthrough-project-id/>", "my-project"))
    for command in substitutions:
        test_command(document, command)
    words = shlex.split(line)
    while words and re.fullmatch(r"[A-Z][A-Z0-9_]*=.*", words[0]):
        name = words.pop(0).partition("=")[0]
        assert name in VARIABLES or name in OTHER_VARIABLES, f"{name} is no setting"
    program, arguments = words[0], words[1:]
    if program == "make":
        _check_make(arguments)
    elif Path(program).name == "manyhost":
        _check_manyhost(arguments)
    elif program == "helm":
        _check_helm(arguments)
    elif Path(program).name in {"python", "python3"}:
        _check_python(arguments)
    elif program in {"export", "unset"}:
        for word in arguments:
            name = word.partition("=")[0]
            assert name in VARIABLES or name in OTHER_VARIABLES, f"{name} is no setting"
    elif program == "gcloud":
        gcloud.check(arguments)
    elif program == "kubectl":
        assert arguments[0] in KUBECTL, f"no verb that is known here: {arguments[0]}"
    elif program == "./gcluster":
        _check_gcluster(arguments)
    else:
        assert program in FOREIGN, f"{document} uses the unknown program {program}"


@pytest.mark.parametrize(
    "line",
    [
        "gcloud builds submit --configuration cloudbuild.yml",
        "gcloud builds submit --config",
        "gcloud storage bucket create gs://b",
        "gcloud storage rm --recurse gs://b",
        "gcloud config set project",
        "export PROJECT_NUMBER=$(gcloud project describe p)",
        "export CLUSTER=c",
        "make rendr ENV=a3mega",
        "make render ENVIRONMENT=a3mega",
        ".venv/bin/manyhost doctr a3mega",
        ".venv/bin/manyhost deploy a3mega --during 4h",
        ".venv/bin/manyhost render a3mega --set contxt=1",
        "helm install s charts/model-staging --set too=gs://b",
        "helm roll-back s",
        "kubectl anotate crd c a=b",
        "./gcluster apply my-cluster",
        "curl https://example.com",
    ],
)
def test_a_wrong_command_would_be_found(line: str) -> None:
    with pytest.raises((AssertionError, KeyError, click.ClickException, ValueError)):
        test_command("a document", line)


def spans() -> list[tuple[str, str, list[str]]]:
    """Return (document, command, options) for each `manyhost ...` in running text and tables."""
    found = []
    for path in DOCUMENTS:
        text = re.sub(r"^( *)```.*?^\1```", "", path.read_text(), flags=re.S | re.M)
        for words in re.findall(r"`(?:\.venv/bin/)?manyhost ([a-z][^`]*)`", text):
            command, *rest = words.replace("|", " ").split()
            options = [word.partition("=")[0] for word in rest if word.startswith("--")]
            found.append((path.relative_to(ROOT).as_posix(), command, options))
    return found


@pytest.mark.parametrize(("document", "command", "options"), spans())
def test_a_command_in_running_text(document: str, command: str, options: list[str]) -> None:
    found = cli.main.get_command(click.Context(cli.main), command)
    assert found is not None, f"{document}: no command {command}"
    known = {name for parameter in found.params for name in parameter.opts} | {"--help"}
    assert set(options) <= known, document


def _check_gcluster(arguments: list[str]) -> None:
    """Cluster Toolkit's program (docs.cloud.google.com/cluster-toolkit/docs/reference/gcluster)."""
    verb, *rest = arguments
    assert verb in {"deploy", "destroy"}, verb
    assert {word for word in rest if word.startswith("-")} <= {"-d", "--auto-approve"}, rest


def _check_make(arguments: list[str]) -> None:
    if arguments[0] == "-C":  # another project's
        return
    for word in arguments:
        if "=" in word:
            assert word.partition("=")[0] in set(re.findall(r"^([A-Z]+) \?=", MAKEFILE, re.M))
        else:
            assert word in targets()
    if arguments[0] == "render":
        picked = dict(word.split("=") for word in arguments[1:])
        recipe = "/".join(filter(None, (picked["ENV"], picked.get("RECIPE", ""))))
        _check_manyhost(["render", recipe])


def _check_manyhost(arguments: list[str]) -> None:
    context = click.Context(cli.main, **cli.main.context_settings)
    command = cli.main.get_command(context, arguments[0])
    assert command is not None, f"no command {arguments[0]}"
    if "--help" not in arguments:
        # Parses the options and converts their values, without running the command.
        command.make_context(arguments[0], list(arguments[1:]), parent=context)
    for flag, value in pairwise(arguments):
        if flag == "--set":
            key = value.partition("=")[0]
            assert key in known_keys() or key.startswith(("arguments.", "chart.", "variables.")), key


def _check_helm(arguments: list[str]) -> None:
    assert arguments[0] in {"history", "install", "rollback", "test", "uninstall", "upgrade"}, arguments[0]
    charts = [word for word in arguments if word.startswith("charts/")]
    schema = json.loads((ROOT / (charts or ["charts/llm-multihost"])[0] / "values.schema.json").read_text())
    for flag, value in pairwise(arguments):
        if flag == "-f":
            assert (ROOT / value).is_file()
        if flag == "--set":
            node = schema
            for part in re.sub(r"\[\d+\]", ".[]", value.partition("=")[0]).split("."):
                known = node["items"] if part == "[]" else node.get("properties", {}).get(part)
                node = known or node["additionalProperties"]
                assert node, value
    assert all((ROOT / chart / "Chart.yaml").is_file() for chart in charts)


def _check_python(arguments: list[str]) -> None:
    if arguments[0] == "-m":
        if arguments[1] in {"venv", "pip", "pytest", "http.server", "checkov.main"}:
            return
        module = ROOT / arguments[1].replace(".", "/")
        assert module.with_suffix(".py").is_file() or (module / "__main__.py").is_file()
    elif arguments[0] != "-c":
        assert (ROOT / arguments[0]).is_file()


def test_every_target_has_help_and_the_readme_names_the_first_two() -> None:
    phony = set(re.findall(r"^\.PHONY: (\S+)", MAKEFILE, re.M))
    assert phony - targets() == set()
    first, second = [line for name, line in commands() if name == "README.md"][:2]
    assert (first, second) == ("make render ENV=a3mega", "make test")


def test_no_product_file_needs_the_reference_folder() -> None:
    product = ["generator", "charts", "values", "recipes", "tools", "Makefile", "README.md", ".ci"]
    for name in product:
        top = ROOT / name
        for path in [top] if top.is_file() else top.rglob("*"):
            if path.is_file() and path.suffix not in {".pyc"}:
                assert "../shared" not in path.read_text(errors="ignore"), path
