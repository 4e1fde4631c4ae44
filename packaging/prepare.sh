#!/bin/sh
# Make a checkout ready to run: system packages, .venv with everything pinned in requirements.lock,
# the encoder and the knowledge base. Does only what is missing; a line for every step.
#
#   VENV=.venv           where the virtual environment goes
#   PYTHON=python3       the interpreter to make it with (3.11 or newer)
#   LLAMA_WHEELS=WHERE   folder or index page of ready-made llama-cpp-python wheels, to take instead
#                        of compiling; your own choice, so no hash of the lock stands behind it
set -eu
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
python=${PYTHON:-python3}
lock=packaging/requirements.lock

running=
log=
# However this ends, no compiler goes on behind it. Each step runs in a process group of its own, so
# that the compilers which pip starts end too.
end() {
    code=$?
    trap - EXIT HUP INT TERM
    if [ -n "$running" ]; then
        kill -TERM "-$running" 2>/dev/null || kill -TERM "$running" 2>/dev/null || :
        wait "$running" 2>/dev/null || :
    fi
    [ -z "$log" ] || rm -f "$log"
    exit "$code"
}
trap end EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

say() { printf '%s\n' "setup: $*" >&2; }

# Run a long command and say every 15 seconds that it still runs; show its output if it fails.
watch() {
    what=$1
    shift
    log=$(mktemp)
    say "$what"
    # A shell without a terminal has its background jobs ignore SIGINT: setsid and SIGTERM do not.
    setsid "$@" >"$log" 2>&1 </dev/null &
    running=$!
    seconds=0
    while kill -0 "$running" 2>/dev/null; do
        sleep 1
        seconds=$((seconds + 1))
        if [ $((seconds % 15)) -eq 0 ]; then say "$what: ${seconds} s"; fi
    done
    if ! wait "$running"; then
        running=
        tail -n 40 "$log" >&2
        say "FAILED: $what"
        exit 1
    fi
    running=
    rm -f "$log"
    log=
}

missing_packages() {
    command -v "$python" >/dev/null || echo python3
    "$python" -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
    { command -v cc && command -v c++ && command -v make; } >/dev/null || echo build-essential
    # systemd-python is compiled: it needs these, and the interpreter's own headers.
    command -v pkg-config >/dev/null || echo pkg-config
    pkg-config --exists libsystemd 2>/dev/null || echo libsystemd-dev
    "$python" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' \
        2>/dev/null || echo python3-dev
}

install_system_packages() {
    packages=$(missing_packages | tr '\n' ' ')
    [ -z "$packages" ] && return
    if [ "$(id -u)" -ne 0 ]; then
        say "these Debian packages are missing: $packages"
        say "install them as root (apt-get install $packages), then run this again"
        exit 1
    fi
    watch "reading Debian's package lists" apt-get update
    # shellcheck disable=SC2086 # one word a package
    DEBIAN_FRONTEND=noninteractive watch "installing $packages" \
        apt-get install -y --no-install-recommends $packages
}

install_python_packages() {
    mark=$venv/.lock-installed
    if [ -f "$mark" ] && cmp -s "$mark" "$lock"; then return; fi
    if [ ! -x "$venv/bin/python" ]; then
        watch "making $venv" "$python" -m venv "$venv"
    fi
    # Older pips do not take a wheel that they built themselves where hashes are asked for.
    "$venv/bin/python" -c 'import pip, sys; sys.exit(int(pip.__version__.split(".")[0]) < 24)' ||
        watch "bringing pip up" "$venv/bin/python" -m pip install -q --upgrade pip
    # Portable code (no -march=native): what is built here may run on another machine.
    export CMAKE_ARGS="${CMAKE_ARGS:--DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF}"
    if [ -n "${LLAMA_WHEELS:-}" ]; then
        pinned=$(sed -n 's/^\(llama-cpp-python==[^ ]*\).*/\1/p' "$lock")
        watch "taking a ready wheel of $pinned" "$venv/bin/python" -m pip install --no-deps \
            --only-binary :all: --find-links "$LLAMA_WHEELS" --extra-index-url "$LLAMA_WHEELS" \
            "$pinned"
    fi
    watch "installing Python packages (compiles llama.cpp once: about 6 minutes on 2 cores)" \
        "$venv/bin/python" -m pip install --no-deps --require-hashes \
        -r "$lock"
    cp "$lock" "$mark"
}

install_project() {
    "$venv/bin/python" -c 'import appliance' 2>/dev/null && [ -x "$venv/bin/appliance" ] && return
    watch "installing the appliance" \
        "$venv/bin/python" -m pip install --no-deps --no-build-isolation -e .
}

install_system_packages
install_python_packages
install_project
"$venv/bin/appliance" model build
"$venv/bin/appliance" kb build
say "ready"
