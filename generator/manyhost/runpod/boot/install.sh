#!/usr/bin/env bash
# install.sh FOLDER: makes a virtual environment of requirements.txt there; the hashes say what may come.
set -eu
python3 -m venv "$1"
"$1/bin/python" -m pip install --quiet --no-cache-dir --disable-pip-version-check --no-deps \
  --only-binary :all: --require-hashes -r requirements.txt
