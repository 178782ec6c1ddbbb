"""Secrets are taken out of what leaves the machine; what only sounds like one stays."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from manyhost.cluster import redact
from manyhost.cluster.redact import GONE

TOKEN = "planted-S3cret.value"
KNOWN = redact.known({"HF_TOKEN": TOKEN, "HOME": "/root/some/where", "MY_API_KEY": "short"})


@pytest.mark.parametrize(
    "line",
    [
        f"using {TOKEN} here",
        f"as {base64.b64encode(TOKEN.encode()).decode()} in a Secret",
        "loaded hf_Ab12Cd34Ef56Gh78Ij90Kl12",
        "cut off: hf_Ab12C",
        "Authorization: Bearer abcd",
        "authorization: Basic dXNlcjpwYXNz",
        "'authorization': 'Bearer abc.def-ghi'",
        '{"Authorization": "opaque-thing"}',
        "x-api-key: opaque-thing",
        "VLLM_API_KEY=opaque-thing",
        "export HF_TOKEN='opaque-thing'",
        "hf_token: opaque-thing",
        "--api-key opaque-thing --port 8000",
        "--api-key=opaque-thing",
        "non-default args: {'api_key': ['opaque-thing', 'second-thing'], 'port': 8000}",
        "GET https://user:opaque-thing@host/path",
        "key sk-abcdefghijklmnopqrstuvwxyz0123",
        "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
        "-----BEGIN RSA PRIVATE KEY-----\nopaque-thing\n-----END RSA PRIVATE KEY-----",
    ],
)
def test_secrets_go(line: str) -> None:
    found = redact.text(line, KNOWN)
    assert GONE in found
    for secret in (
        TOKEN,
        "opaque-thing",
        "second-thing",
        "hf_Ab12",
        "abc.def",
        "dXNlcjpwYXNz",
        "sk-abc",
        "ghp_abc",
    ):
        assert secret not in found
    assert base64.b64encode(TOKEN.encode()).decode() not in found


@pytest.mark.parametrize(
    "line",
    [
        "INFO: max_tokens=4096 prompt_tokens: 17 total_tokens=21",
        'manyhost phase=held member=leader rank=0 seconds=9.00 reason="the weights are not there"',
        "tokenizer='deepseek-ai/DeepSeek-R1', tokenizer_mode=auto",
        "secretName: hf-secret",
        "the token of the leader is read from a Secret",
        "key_path=/etc/tls/key.pem num_key_value_heads=8",
        "short value MY_PATH=/root/some/where",
    ],
)
def test_the_rest_stays(line: str) -> None:
    assert redact.text(line, KNOWN) == line


def test_objects() -> None:
    pod: Any = {
        "metadata": {
            "name": "r-0",
            "managedFields": [{"manager": "m"}],
            "annotations": {
                "kubectl.kubernetes.io/last-applied-configuration": f'{{"x": "{TOKEN}"}}',
                "note": f"with {TOKEN}",
                "example.com/api-key": "opaque-thing",
            },
        },
        "spec": {
            "containers": [
                {
                    "args": [
                        "--api-key", "opaque-thing", "--port", "8000", f"--x={TOKEN}",
                        "--hf-token=opaque-thing",
                    ],
                    "env": [
                        {"name": "HF_TOKEN", "value": "opaque-thing"},
                        {"name": "PLAIN", "value": "stays"},
                        {"name": "API_KEY", "valueFrom": {"secretKeyRef": {"name": "hf-secret", "key": "k"}}},
                    ],
                }
            ]
        },
    }  # fmt: skip
    before = json.dumps(pod)
    found = redact.item(pod, KNOWN)
    assert json.dumps(pod) == before
    said = json.dumps(found)
    for secret in (TOKEN, "opaque-thing", "managedFields", "last-applied"):
        assert secret not in said
    container = found["spec"]["containers"][0]
    assert container["args"][2:4] == ["--port", "8000"]
    assert container["env"][1] == {"name": "PLAIN", "value": "stays"}
    assert container["env"][2]["valueFrom"]["secretKeyRef"]["name"] == "hf-secret"


def test_values_that_are_too_short_to_be_secrets_are_not_looked_for() -> None:
    assert redact.known({"API_KEY": "a", "TOKEN": " "}) == ()
    assert TOKEN in KNOWN
    assert "/root/some/where" not in KNOWN


@pytest.mark.parametrize("piece", ["x", "a.", "--a", "k=", "http:", "[", "'", "-----BEGIN "])
def test_a_long_line_takes_time_by_its_length(piece: str) -> None:
    """Half a megabyte in one line; by its square it would take hours."""
    line = piece * (500_000 // len(piece))
    assert len(redact.text(line, KNOWN)) == len(line)
