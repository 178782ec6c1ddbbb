"""The real engine of the local environment: vLLM's CPU build, a small model, a container image.

`python -m testbed.engine` builds it once into the cache and prints its folder, which holds
`vllm` (a virtual environment made with Debian's /usr/bin/python3, so that the image's interpreter
fits), `model/tiny-r1` and `image.tar` (for `ctr images import`, named `IMAGE`).
"""

from testbed.engine.build import IMAGE, build, engine_dir, settings

__all__ = ["IMAGE", "build", "engine_dir", "settings"]
