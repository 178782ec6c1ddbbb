"""The gcloud commands of the documents with their flags (docs.cloud.google.com/sdk/gcloud/reference/<words>).

No gcloud runs in the tests. A flag that is not here is looked up there and added.
"""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    """Flags with a value, flags without one, and how many other words it takes."""

    valued: frozenset[str]
    plain: frozenset[str]
    least: int
    most: int


def command(valued: str = "", plain: str = "", least: int = 1, most: int = 1) -> Command:
    return Command(frozenset(valued.split()), frozenset(plain.split()), least, most)


EVERYWHERE = command("--project --format --account --verbosity --billing-project", "--quiet -q --help")
_PLACE = "--location --region --zone -z"
COMMANDS = {
    "artifacts repositories create": command(
        "--location --repository-format --description --kms-key --labels --mode", "--async --immutable-tags"
    ),
    "artifacts repositories delete": command("--location", "--async"),
    "auth print-access-token": command(least=0, most=0),
    "beta builds log": command("--region", "--stream"),
    "builds describe": command("--region"),
    "builds list": command("--region --filter --limit --page-size --sort-by", "--ongoing", least=0, most=0),
    "builds submit": command(
        "--config --dir --disk-size --gcs-log-dir --gcs-source-staging-dir --ignore-file --machine-type "
        "--region --service-account --substitutions --tag -t --timeout --worker-pool",
        "--async --no-cache --no-source --suppress-logs",
        least=0,
    ),
    "config set": command(least=2, most=2),
    "container clusters create": command(
        f"{_PLACE} --addons --cluster-version --machine-type --maintenance-window --network --node-locations "
        "--num-nodes --release-channel --subnetwork --workload-pool",
        "--async --enable-dataplane-v2 --enable-ip-alias --enable-multi-networking",
    ),
    "container clusters get-credentials": command(_PLACE, "--dns-endpoint --internal-ip"),
    "container clusters update": command(
        f"{_PLACE} --add-maintenance-exclusion-name --add-maintenance-exclusion-start "
        "--add-maintenance-exclusion-end --add-maintenance-exclusion-scope --gateway-api "
        "--remove-maintenance-exclusion --update-addons --workload-pool",
        "--async",
    ),
    "container node-pools update": command(
        f"{_PLACE} --accelerator --cluster --max-surge-upgrade --max-unavailable-upgrade",
        "--async --enable-autorepair --no-enable-autorepair --enable-autoupgrade --no-enable-autoupgrade",
    ),
    "projects describe": command(),
    "services enable": command("", "--async", most=99),
    "storage buckets add-iam-policy-binding": command("--member --role --condition --condition-from-file"),
    "storage buckets create": command(
        "--location -l --default-storage-class -c --placement --retention-period",
        "--uniform-bucket-level-access -b --enable-hierarchical-namespace --no-public-access-prevention",
    ),
    "storage rm": command("", "--all-versions -a --continue-on-error -c --recursive -r -R", most=99),
}


def check(words: list[str]) -> None:
    """Assert that gcloud would take a command line; `words` are those after `gcloud`."""
    name = next((" ".join(words[:count]) for count in (4, 3, 2) if " ".join(words[:count]) in COMMANDS), "")
    assert name, f"no command that is known here: gcloud {' '.join(words)}"
    known, rest = COMMANDS[name], []
    following = iter(words[len(name.split()) :])
    for word in following:
        flag, equals, _ = word.partition("=")
        if not word.startswith("-"):
            rest.append(word)
        elif flag in known.valued | EVERYWHERE.valued:
            assert equals or next(following, "-").startswith("-") is False, f"{flag} needs a value"
        else:
            assert word in known.plain | EVERYWHERE.plain, f"gcloud {name} has no {word}"
    assert known.least <= len(rest) <= known.most, f"gcloud {name}: {rest}"
