"""A hub with a small model that the catalog of a checkout knows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from testbed import hub
from tests.helpers.cli import checkout

CATALOG = """\
name: small
hub_id: test/small
served_name: small
weights_bytes: {bytes}
weights_files: 3
gated: false
reasoning_parser: ""
weight_format: fp8-block
max_context_tokens: 4096
revision: {revision}
architecture: {{kind: gqa-dense, layers: 3, hidden: 128, heads: 4, vocabulary: 4096, kv_heads: 1,
  head_dim: 32, intermediate: 256}}
"""


@contextmanager
def small_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[hub.Hub, Path]]:
    """Run the hub, to which HF_ENDPOINT points; yield it and the checkout, with values/models/small.yaml."""
    folder = hub.write_model(tmp_path / "model")
    with hub.Hub() as running:
        commit = running.add("test/small", folder).commit
        own = checkout(tmp_path / "own", monkeypatch)
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        (own / "values/models/small.yaml").write_text(CATALOG.format(bytes=size, revision=commit))
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running, own
