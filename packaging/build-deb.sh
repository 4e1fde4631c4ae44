#!/bin/sh
# Build the Debian package from this checkout, as a file appliance_VERSION_ARCH.deb in dist/:
#
#   /usr/lib/appliance     a virtual environment of Debian's own python3, all packages pinned by
#                          requirements.lock; installing needs no network
#   /usr/share/appliance   models and knowledge base, as `make setup` built them
#   /etc/appliance         the default configuration
#
#   VENV=.venv             where `make setup` put everything
#   DEB_VERSION=...        the package's version; default: the appliance's own and -1
#   OUT=dist               where the package goes
set -eu
umask 022
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
out=${OUT:-dist}
python=/usr/bin/python3
lib=usr/lib/appliance

say() { printf '%s\n' "deb: $*" >&2; }
fail() {
    say "FAILED: $*"
    exit 1
}

for tool in dpkg-deb dpkg gzip; do
    command -v "$tool" >/dev/null || fail "$tool is missing"
done
[ -x "$venv/bin/appliance" ] || fail "$venv is not set up: run make setup"
minor() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }
[ "$(minor "$python")" = 3.11 ] || fail "$python is $(minor "$python"): the package is for 3.11"
[ "$(minor "$venv/bin/python")" = 3.11 ] || fail "$venv has another Python than 3.11"
data=${APPLIANCE_DATA:-$("$venv/bin/python" -c 'import sys; print(sys.prefix)')/share/appliance}
[ -f "$data/models/encoder/manifest.json" ] || fail "no models in $data: run make setup"
[ -f "$data/knowledge/manifest.json" ] || fail "no knowledge base in $data: run make setup"

version=${DEB_VERSION:-$("$venv/bin/python" -c 'import appliance; print(appliance.__version__)')-1}
arch=$(dpkg --print-architecture)
# Times inside the package are those of the last change, so that two builds of it are alike.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 1767225600)}
export SOURCE_DATE_EPOCH

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
root=$work/root
mkdir -p "$root/DEBIAN" "$root/$lib" "$out"

# Portable code: the machine that runs it is another one. The lock's hashes stand behind each file
# that is fetched; pip keeps what it has built before.
say "wheels of what the lock names"
export CMAKE_ARGS="${CMAKE_ARGS:--DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF}"
"$venv/bin/python" packaging/list_runtime.py <packaging/requirements.lock >"$work/runtime.lock"
"$venv/bin/python" -m pip wheel -qq --no-deps --require-hashes -r "$work/runtime.lock" \
    -w "$work/wheels"
"$venv/bin/python" -m pip wheel -qq --no-deps --no-build-isolation -w "$work/wheels" .

say "the virtual environment"
"$python" -m venv --without-pip "$root/$lib"
"$venv/bin/python" -m pip --python "$root/$lib/bin/python" install -qq --no-index --no-deps \
    --no-compile --no-warn-script-location "$work"/wheels/*.whl
site=$root/$lib/lib/python3.11/site-packages
# llama.cpp's wheel holds its libraries twice, with headers.
rm -rf "${site:?}/lib" "$site/include" "$site/bin"
# What the virtual environment's own tools are: nobody activates it, and they name this folder.
rm -rf "$root/$lib/bin" "$root/$lib/include" "$root/$lib/share" "$root/$lib/lib64"
mkdir -p "$root/$lib/bin" "$root/$lib/share"
ln -s "$python" "$root/$lib/bin/python3"
ln -s python3 "$root/$lib/bin/python"
ln -s lib "$root/$lib/lib64"
ln -s ../../../share/appliance "$root/$lib/share/appliance"
printf 'home = /usr/bin\ninclude-system-site-packages = false\n' >"$root/$lib/pyvenv.cfg"
# Compiled by contents: nothing is ever written below /usr/lib, also not by root.
"$python" -m compileall -q --invalidation-mode unchecked-hash -s "$root" -p / "$root/$lib/lib" ||
    fail "compiling"
find "$site" -name direct_url.json -delete

say "models, configuration, units"
mkdir -p "$root/usr/share/appliance" "$root/usr/bin" "$root/etc/appliance" \
    "$root/etc/logrotate.d" "$root/lib/systemd/system" "$root/usr/lib/sysusers.d" \
    "$root/usr/lib/tmpfiles.d" "$root/usr/share/doc/appliance" \
    "$root/usr/share/bash-completion/completions"
cp -RL "$data/models" "$root/usr/share/appliance/"
# The base that is in use, and nothing of the one before it.
"$venv/bin/python" - "$data/knowledge" "$root/usr/share/appliance/knowledge" <<'END'
import json
import shutil
import sys
from pathlib import Path

source, target = map(Path, sys.argv[1:])
target.mkdir()
for name in ("manifest.json", *json.loads((source / "manifest.json").read_bytes())["files"]):
    shutil.copyfile(source / name, target / name)
END
cat >"$root/usr/bin/appliance" <<'END'
#!/usr/lib/appliance/bin/python -I
import sys

from appliance.cli import main

sys.exit(main())
END
cp packaging/appliance.yaml "$root/etc/appliance/"
cp packaging/appliance.logrotate "$root/etc/logrotate.d/appliance"
cp packaging/appliance.service "$root/lib/systemd/system/"
cp packaging/sysusers.d/appliance.conf "$root/usr/lib/sysusers.d/"
cp packaging/tmpfiles.d/appliance.conf "$root/usr/lib/tmpfiles.d/"
cp LICENSE "$root/usr/share/doc/appliance/copyright"
gzip -9n <CHANGELOG.md >"$root/usr/share/doc/appliance/changelog.gz"
"$venv/bin/appliance" completion bash >"$root/usr/share/bash-completion/completions/appliance"
"$venv/bin/appliance" man >"$work/man"
section=$(sed -n 's/^\.TH [^ ]* "\{0,1\}\([1-9]\).*/\1/p' "$work/man")
mkdir -p "$root/usr/share/man/man$section"
gzip -9n <"$work/man" >"$root/usr/share/man/man$section/appliance.$section.gz"

say "control files"
cp packaging/debian/postinst packaging/debian/prerm packaging/debian/postrm "$root/DEBIAN/"
printf '/etc/appliance/appliance.yaml\n/etc/logrotate.d/appliance\n' >"$root/DEBIAN/conffiles"
sed -e "s/@VERSION@/$version/" -e "s/@ARCH@/$arch/" \
    -e "s/@SIZE@/$(du -sk --apparent-size "$root" | cut -f1)/" packaging/debian/control \
    >"$root/DEBIAN/control"
(cd "$root" && find . -path ./DEBIAN -prune -o -type f -printf '%P\0' | sort -z |
    xargs -0 md5sum >DEBIAN/md5sums)
chmod -R u=rwX,go=rX "$root"
chmod 755 "$root/usr/bin/appliance" "$root"/DEBIAN/p*
grep -rIl "$work" "$root" && fail "the files above name the folder in which they were built"

package=$out/appliance_${version}_$arch.deb
dpkg-deb --root-owner-group -Zxz --build "$root" "$package" >/dev/null
say "$package: $(du -k "$package" | cut -f1) KiB"
printf '%s\n' "$package"
