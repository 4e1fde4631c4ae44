#!/bin/sh
# Install, use, upgrade, remove and purge the Debian package on a fresh Debian 12 that has no
# network. Every step is printed; exits with 1 at the first one that fails.
#
# The machine is a folder made by debootstrap from the mirror that this machine's apt uses. Where
# systemd-nspawn can boot it, systemd is its first process, and the unit with its sandbox and the
# journal are used as they are; else each part is started by hand (BY_HAND=1 asks for that).
#
#   OUT=dist     folder of the packages; built when there are none (NEW=1: in any case)
#   ROOT=...     a debootstrap folder to copy instead of making one
set -eu
cd "$(dirname "$0")/.."
out=${OUT:-dist}
suite=bookworm

say() { printf '%s\n' "deb-test: $*"; }
fail() {
    say "FAILED: $*"
    exit 1
}

[ "$(id -u)" -eq 0 ] || fail "run as root: debootstrap and chroot need it"
missing=
command -v debootstrap >/dev/null || missing="$missing debootstrap"
command -v systemd-nspawn >/dev/null || [ -n "${BY_HAND:-}" ] || missing="$missing systemd-container"
if [ -n "$missing" ]; then
    # shellcheck disable=SC2086 # one word a package
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing >/dev/null
fi

began=$(date +%s)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# The same package under two versions: an upgrade is a change of the version alone.
old=$out/appliance_0.0.1-1_$(dpkg --print-architecture).deb
new=$out/appliance_0.0.2-1_$(dpkg --print-architecture).deb
if [ -n "${NEW:-}" ] || [ ! -f "$old" ]; then
    OUT=$out DEB_VERSION=0.0.1-1 packaging/build-deb.sh >/dev/null
fi
say "package: $(basename "$old"), $(du -k "$old" | cut -f1) KiB, built after $(($(date +%s) - began)) s"
mkdir "$work/repack"
dpkg-deb -R "$old" "$work/repack"
sed -i 's/^Version: .*/Version: 0.0.2-1/' "$work/repack/DEBIAN/control"
dpkg-deb --root-owner-group -Zgzip -z1 --build "$work/repack" "$new" >/dev/null
rm -rf "$work/repack"

root=$work/root
if [ -n "${ROOT:-}" ]; then
    cp -a "$ROOT" "$root"
else
    mirror=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(COMPONENT)' \
        'Created-By: Packages' | awk -v s=$suite '$2 == s && $3 == "main" { print $1; exit }')
    [ -n "$mirror" ] || fail "apt has no source of $suite main: its mirror would be used"
    needed=$(sed -n 's/^Depends: //p' packaging/debian/control | tr ',' '\n' |
        sed 's/([^)]*)//; s/|.*//; s/ //g' | sort -u | paste -sd,)
    debootstrap --variant=minbase --include="systemd-sysv,dbus,logrotate,$needed" \
        $suite "$root" "$mirror" >"$work/debootstrap.log" 2>&1 ||
        { tail -n 20 "$work/debootstrap.log"; fail "debootstrap"; }
fi
say "a fresh Debian: $(cat "$root/etc/debian_version"), after $(($(date +%s) - began)) s"

mkdir "$root/deb-test"
cp "$old" "$root/deb-test/old.deb"
cp "$new" "$root/deb-test/new.deb"
cp packaging/test-deb-inside.sh "$root/deb-test/inside.sh"
echo deb-test >"$root/etc/hostname"
: >"$root/deb-test/log"
cat >"$root/etc/systemd/system/deb-test.service" <<'END'
[Unit]
Description=Test of the package
After=multi-user.target

[Service]
Type=oneshot
ExecStart=/bin/sh -c 'sh /deb-test/inside.sh >>/deb-test/log 2>&1; echo $? >/deb-test/rc'
ExecStopPost=/bin/systemctl --no-block poweroff
TimeoutStartSec=600
END
mkdir -p "$root/etc/systemd/system/default.target.wants"
ln -s ../deb-test.service "$root/etc/systemd/system/default.target.wants/deb-test.service"

if [ -z "${BY_HAND:-}" ]; then
    say "booting it with systemd as its first process, without network"
    timeout 900 systemd-nspawn -q -D "$root" --register=no --keep-unit --private-network \
        --machine=deb-test --boot </dev/null >"$work/boot.log" 2>&1 || :
    if [ ! -f "$root/deb-test/rc" ]; then
        tail -n 5 "$work/boot.log"
        [ ! -s "$root/deb-test/log" ] || { cat "$root/deb-test/log"; fail "it did not end"; }
        say "systemd cannot be booted here: going on by hand"
        BY_HAND=1
    fi
fi
if [ -n "${BY_HAND:-}" ]; then
    say "without systemd, in a chroot without network"
    unshare --mount --net --pid --fork sh -c '
        mount -t proc proc "$1/proc" && mount -t tmpfs tmpfs "$1/run" &&
        mount -t tmpfs tmpfs "$1/dev" && mkdir "$1/dev/shm" &&
        mknod -m 666 "$1/dev/null" c 1 3 && mknod -m 666 "$1/dev/urandom" c 1 9 &&
        mknod -m 666 "$1/dev/random" c 1 8 && mknod -m 666 "$1/dev/zero" c 1 5 &&
        exec chroot "$1" sh /deb-test/inside.sh' sh "$root" >"$root/deb-test/log" 2>&1 </dev/null &&
        echo 0 >"$root/deb-test/rc" || echo $? >"$root/deb-test/rc"
fi
cat "$root/deb-test/log"
[ "$(cat "$root/deb-test/rc")" = 0 ] || fail "see the last step above"
say "everything passed after $(($(date +%s) - began)) s"
