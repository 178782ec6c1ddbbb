"""Kubernetes and Cloud Storage: preflight, releases, roll-outs, chat and removal."""
