"""A model's folder on a network volume of the stand-in's S3 endpoint."""

from __future__ import annotations

import functools

from botocore import session
from manyhost.runpod.s3 import S3, Keys
from manyhost.runpod.volume_folder import VolumeFolder
from manyhost.weights.transfer import Patience

from testbed import s3

# Tests make clients by the dozen, and each would read what Amazon's services are like.
session.create_loader = functools.cache(session.create_loader)

CENTER, VOLUME, FOLDER = "EU-RO-1", "vol0standin", "models/test/m"
KEYS = Keys(s3.ACCESS, s3.SECRET)
PART = 5 * 1024**2  # the gateway takes no smaller ones


def open_volume(
    url: str, patience: Patience, key: Keys = KEYS, *, volume: str = VOLUME, capacity: int = 10**9
) -> VolumeFolder:
    """Return it, with parts that small models have some of."""
    return VolumeFolder(S3(CENTER, key, url, patience=patience), volume, FOLDER, capacity, part=PART)
