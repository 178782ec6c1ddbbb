"""What engines are started with that have NVIDIA Dynamo before them (runpod/boot/dynamo_hosts.py).

Dynamo reaches an engine by gRPC, which vLLM's Rust frontend has, beside the HTTP that the launcher asks
(vllm serve --grpc-port; ai-dynamo 1.6.1, dynamo.vllm.sidecar).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from manyhost.plan import Plan, Role

_ENGINE_PORT, _GRPC_PORT, _EVENTS_PORT = 8001, 8002, 5557
_NIXL_PORT = 5600
# Dynamo parses thoughts and tool calls itself, and refuses an engine that does too.
_PARSERS = {
    "reasoning-parser": "MANYHOST_REASONING_PARSER",
    "tool-call-parser": "MANYHOST_TOOL_CALL_PARSER",
}
_OF_PARSERS = (*_PARSERS, "enable-auto-tool-choice")


def variables(plan: Plan) -> dict[str, str]:
    """Return the variables that all hosts have for Dynamo's sake.

    MANYHOST_ENGINES: the role of each engine, in the order of their hosts.
    """
    found = {
        "MANYHOST_ENGINES": " ".join(role.name for role in plan.roles for _ in range(role.groups)),
        "MANYHOST_GRPC_PORT": str(_GRPC_PORT),
        "MANYHOST_PORT": str(_ENGINE_PORT),
        "VLLM_USE_RUST_FRONTEND": "1",
    }
    for flag, variable in _PARSERS.items():
        if value := plan.main.arguments.get(flag):
            found[variable] = str(value)
    if plan.handover:
        found |= plan.interconnect.kv_handover.variables
        found["VLLM_NIXL_SIDE_CHANNEL_PORT"] = str(_NIXL_PORT)
    return found


def kept(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flags of an engine that stay with it."""
    return {name: value for name, value in arguments.items() if name not in _OF_PARSERS}


def flags(plan: Plan, role: Role) -> list[str]:
    """Return the flags that an engine has for Dynamo's sake."""
    # What is in the KV cache, so that Dynamo sends a prompt to where its beginning is.
    events = {"enable_kv_cache_events": True, "publisher": "zmq", "endpoint": f"tcp://*:{_EVENTS_PORT}"}
    words = ["--kv-events-config", _json(events)]
    if role.name != "serve":
        words += ["--kv-transfer-config", _json(_transfer(plan, role))]
    return words


def _transfer(plan: Plan, role: Role) -> dict[str, str]:
    """Return vLLM's --kv-transfer-config, the same as the chart's (_handover.tpl)."""
    config = {
        "kv_connector": "NixlConnector",
        "kv_load_failure_policy": "recompute",
        "kv_role": "kv_producer" if role.name == "prefill" else "kv_consumer",
    }
    if buffer := plan.interconnect.kv_handover.buffer:
        config["kv_buffer_device"] = buffer
    return config


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
