"""Measuring a service: scenarios → points → a client's evidence → a gate → results in a folder."""
