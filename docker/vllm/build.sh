#!/bin/sh
# build.sh REPOSITORY VERSION: build REPOSITORY:VERSION from the stock image of that version of vLLM.
# An image that exists is never replaced: made from the same files it is fetched, from others it is an error.
set -eu
cd "$(dirname "$0")"

refuse() {
  printf 'manyhost: %s\n' "$*" >&2
  exit 1
}

[ $# -eq 2 ] || refuse "usage: sh build.sh REPOSITORY VERSION"
image=$1:$2 version=$2
requirements=requirements/$version.txt
stock=docker.io/vllm/vllm-openai:$version
if [ ! -f "$requirements" ]; then
  known=$(cd requirements && echo *.txt)
  refuse "there is no list of extras for vLLM $version, only ${known}"
fi

# Prints what a registry says of an image, or nothing if it has none; anything else is an error.
complaint=$(mktemp)
trap 'rm -f "$complaint"' EXIT
ask() {
  if docker buildx imagetools inspect "$1" --format "$2" 2>"$complaint"; then
    return
  fi
  grep -qi 'not found' "$complaint" || refuse "$1 cannot be looked up: $(tail -n 1 "$complaint")"
}

digest=$(awk -v version="$version" '$1 == version { print $2 }' bases.txt)
if [ -z "$digest" ]; then
  digest=$(ask "$stock" '{{json .Manifest.Digest}}' | tr -d '"')
  [ -n "$digest" ] || refuse "there is no $stock"
  echo "manyhost: nobody has locked the digest of $stock: today it is $digest"
fi

inputs=$(cat Dockerfile inventory.py "$requirements" | sha256sum | cut -c 1-64)-$digest
there=$(ask "$image" 'made from {{index .Image.Config.Labels "dev.manyhost.inputs"}}')
if [ "$there" = "made from $inputs" ]; then
  echo "manyhost: $image is there, made from the same files"
  docker pull "$image"
elif [ -n "$there" ]; then
  refuse "$image exists and was made from something else: choose another name (_VLLM_IMAGE), or delete it first"
else
  docker build --tag "$image" --build-arg "VLLM_VERSION=$version" --build-arg "BASE_DIGEST=$digest" \
    --label "dev.manyhost.inputs=$inputs" .
fi
