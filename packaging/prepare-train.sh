#!/bin/sh
# Make .venv-train: what training the sentinel needs beside .venv, on any machine with a package
# index. Nothing of it is ever needed to run the appliance.
#
#   VENV=.venv             the environment that `make setup` made
#   TRAIN_VENV=.venv-train where the other one goes
set -eu
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
train=${TRAIN_VENV:-.venv-train}
if [ ! -x "$train/bin/python" ]; then
    "$venv/bin/python" -m venv "$train"
    # The product's own packages come from its environment.
    "$venv/bin/python" -c 'import site; print(site.getsitepackages()[0])' \
        >"$("$train/bin/python" -c 'import site; print(site.getsitepackages()[0])')/product.pth"
fi
# First torch by itself: named with others, some indexes add gigabytes for accelerators.
"$train/bin/python" -c 'import torch' 2>/dev/null || "$train/bin/pip" install -q torch==2.13.0
"$train/bin/python" -c 'import tokenizers, matplotlib' 2>/dev/null ||
    "$train/bin/pip" install -q 'tokenizers>=0.20' 'matplotlib>=3.8'
