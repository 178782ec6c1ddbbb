"""Our schema of ComputeDomain, closed: the hosts that share GPU memory over NVLink (GB200).

Fields as of the CRD of NVIDIA's DRA driver (NVIDIA/k8s-dra-driver-gpu, resource.nvidia.com/v1beta1).
"""

from __future__ import annotations

from typing import Any

from manyhost.checks.closed import closed, integer

API = "resource.nvidia.com/v1beta1"
KIND = "ComputeDomain"

SCHEMA: dict[str, Any] = closed(
    {
        "apiVersion": {"const": API},
        "kind": {"const": KIND},
        "metadata": {"$ref": "#/$defs/meta.v1.ObjectMeta"},
        "spec": closed(
            {
                "numNodes": integer(0),
                "channel": closed(
                    {
                        "allocationMode": {"enum": ["All", "Single"]},
                        "resourceClaimTemplate": closed({"name": {"type": "string"}}, "name"),
                    },
                    "resourceClaimTemplate",
                ),
            },
            "channel",
        ),
    },
    "apiVersion",
    "kind",
    "metadata",
    "spec",
)
