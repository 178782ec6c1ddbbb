"""Certificates, tokens and kubeconfig of one cluster. They are worth nothing outside it."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from testbed.layout import API_PORT, Layout
from testbed.system import run

ADMIN, NOBODY = "admin", "nobody"  # NOBODY may authenticate and do nothing else
_EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def create(cluster: Layout) -> None:
    """Writes the authority, the API server's and webhooks' certificate, tokens and kubeconfig."""
    pki = cluster.pki
    (pki / "webhook").mkdir(parents=True, exist_ok=True)
    ca = ("-keyout", pki / "ca.key", "-out", pki / "ca.crt")
    run("openssl", "req", "-x509", *_EC, "-days", "365", "-subj", "/CN=test-cluster-ca", *ca)
    run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", pki / "sa.key")
    names = ["DNS:localhost", "DNS:kubernetes.default.svc", "IP:127.0.0.1", "IP:10.96.0.1"]
    names.append(f"IP:{cluster.control_plane}")
    (pki / "extensions").write_text(
        f"subjectAltName={','.join(names)}\nextendedKeyUsage=serverAuth,clientAuth\n"
    )
    key, request = pki / "webhook/tls.key", pki / "request"
    run("openssl", "req", *_EC, "-subj", "/CN=test-cluster", "-keyout", key, "-out", request)
    signer = ("-CA", pki / "ca.crt", "-CAkey", pki / "ca.key", "-CAcreateserial", "-days", "365")
    out = pki / "webhook/tls.crt"
    run(*("openssl", "x509", "-req", "-in", request, *signer),
        *("-extfile", pki / "extensions", "-out", out))  # fmt: skip
    tokens = f"{token(ADMIN)},{ADMIN},{ADMIN},system:masters\n{token(NOBODY)},{NOBODY},{NOBODY}\n"
    (pki / "tokens.csv").write_text(tokens)
    write_kubeconfig(cluster, ADMIN, cluster.kubeconfig)


def token(user: str) -> str:
    """The bearer token of `user`."""
    return f"test-cluster-{user}"


def ca_bundle(cluster: Layout) -> str:
    """The authority's certificate, base64, as webhook configurations want it."""
    return base64.b64encode((cluster.pki / "ca.crt").read_bytes()).decode()


def write_kubeconfig(cluster: Layout, user: str, path: Path) -> None:
    """Writes a kubeconfig with one context, named like the cluster."""
    server = f"https://{cluster.control_plane}:{API_PORT}"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": cluster.name,
        "clusters": [
            {
                "name": cluster.name,
                "cluster": {"server": server, "certificate-authority-data": ca_bundle(cluster)},
            }
        ],
        "users": [{"name": user, "user": {"token": token(user)}}],
        "contexts": [{"name": cluster.name, "context": {"cluster": cluster.name, "user": user}}],
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(config, indent=1) + "\n")
