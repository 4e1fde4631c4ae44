#!/bin/sh
# The steps of test-deb.sh, inside the fresh Debian. Stops at the first one that fails.
set -eu
export LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive
findings=/var/log/appliance/findings.jsonl
config=/etc/appliance/appliance.yaml

step() { printf -- '--- %s\n' "$*"; }
die() {
    printf 'FAILED: %s\n' "$*"
    if has_systemd; then
        systemctl status --no-pager --full appliance.service || :
        journalctl --no-pager -n 40 -u appliance.service || :
    else
        cat /deb-test/daemon.log || :
    fi
    appliance status || :
    exit 1
}
has_systemd() { [ -d /run/systemd/system ]; }

# Wait up to 60 seconds for a command to succeed.
await() {
    what=$1
    shift
    tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt 240 ] || die "$what"
        sleep 0.25
    done
    printf 'ok: %s\n' "$what"
}
check() {
    what=$1
    shift
    "$@" >/deb-test/said 2>&1 || { cat /deb-test/said; die "$what"; }
    printf 'ok: %s\n' "$what"
}
refute() {
    what=$1
    shift
    ! "$@" >/deb-test/said 2>&1 || { cat /deb-test/said; die "$what"; }
    printf 'ok: %s\n' "$what"
}

daemon=
is_running() { appliance status --json | grep -q '"running": *true'; }
start() {
    if has_systemd; then return; fi # the package has done it
    setpriv --reuid appliance --regid appliance --init-groups \
        appliance run >>/deb-test/daemon.log 2>&1 &
    daemon=$!
}
stop() {
    if has_systemd || [ -z "$daemon" ]; then return; fi
    kill -TERM "$daemon"
    wait "$daemon" || die "the daemon ended with $?"
}
log_attack() { # port
    printf '%s deb-test sshd[77]: Accepted password for root from 203.0.113.9 port %s ssh2\n' \
        "$(date '+%b %e %H:%M:%S')" "$1" >>/var/log/auth.log
}
list_files() {
    find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp \
        -o -path /deb-test -o -path /var/log/journal -o -path /var/lib/dpkg \) -prune -o -print |
        sort
}

step "a machine without network: $(cut -d: -f1 /proc/net/dev | tail -n +3 | tr -d '\n ')"
: >/var/log/auth.log
chown root:adm /var/log/auth.log
chmod 640 /var/log/auth.log
list_files >/deb-test/before

step "install"
check "dpkg -i takes the package" dpkg -i /deb-test/old.deb
cat /deb-test/said
check "nothing is missing" dpkg --audit
check "files are as packed" dpkg -V appliance
id appliance
check "its groups may read logs" sh -c 'id -nG appliance | grep -w adm | grep -w systemd-journal'
check "the default configuration is good" appliance config check
check "also for the user of the daemon" \
    setpriv --reuid appliance --regid appliance --init-groups appliance config check
appliance --version

if command -v systemd-analyze >/dev/null; then
    step "the unit"
    check "systemd-analyze verify" systemd-analyze verify --man=no /lib/systemd/system/appliance.service
    cat /deb-test/said
    systemd-analyze security --offline=true --threshold=20 /lib/systemd/system/appliance.service |
        tail -n 1
fi

step "run"
start
await "the daemon runs" is_running
if has_systemd; then
    check "systemd holds it for ready" sh -c '[ "$(systemctl is-active appliance)" = active ]'
    check "it is enabled" systemctl is-enabled appliance
    systemctl show -p StatusText -p WatchdogUSec -p NRestarts -p MemoryCurrent appliance
    pid=$(systemctl show --value -p MainPID appliance)
    grep -E '^(NoNewPrivs|Seccomp|CapEff|CapBnd|Groups):' "/proc/$pid/status"

    step "a finding from the journal"
    logger -t sshd -p auth.info "Accepted password for root from 203.0.113.8 port 4001 ssh2"
    await "it is in the file sink" grep -q 'port 4001' $findings
    setpriv --reuid nobody --regid nogroup --clear-groups \
        logger -t sshd -p auth.info "Accepted password for root from 203.0.113.8 port 4002 ssh2"
    logger -t sshd -p auth.info "Accepted password for root from 203.0.113.8 port 4003 ssh2"
    await "one after it is, too" grep -q 'port 4003' $findings
    refute "what nobody said in the name of sshd is none" grep -q 'port 4002' $findings
fi

step "selftest"
check "every part does its work" appliance selftest --config $config
cat /deb-test/said

step "the operator adds a file, a listener and a worker, and reloads"
sed -i 's|^      - /var/log/audit/.*|&\n      - /var/log/auth.log # added by the operator|' $config
if has_systemd; then # which gives the right to a port below 1024
    sed -i 's|^  # A listener for syslog.*|  - {name: network, type: syslog, transport: udp, address: "127.0.0.1:514"}\n\n&|
        s|^#workers: 1|workers: 2|' $config
fi
check "the configuration is good" appliance config check
if has_systemd; then
    check "systemctl reload" systemctl reload appliance
    sleep 1
    check "the same process goes on" sh -c "[ $pid = \$(systemctl show --value -p MainPID appliance) ]"
    if ! appliance status --json | grep -q '"running": *true'; then die "running after reload"; fi
else
    stop
    start
    await "the daemon runs again" is_running
fi
sleep 6 # the file is looked for every 5 seconds
log_attack 5001
await "a line of the file is found" grep -q 'port 5001' $findings
if has_systemd; then healthy=0; else healthy=1; fi # by hand there is no journal
if has_systemd; then
    logger --server 127.0.0.1 --port 514 --udp --rfc3164 -t sshd \
        "Accepted password for root from 203.0.113.8 port 6001 ssh2"
    await "a line that was sent to port 514 is found" grep -q 'port 6001' $findings

    step "the journal is rotated and vacuumed"
    check "journalctl" journalctl --rotate --vacuum-time=1s
    cat /deb-test/said
    logger -t sshd -p auth.info "Accepted password for root from 203.0.113.8 port 4004 ssh2"
    await "what comes then is found" grep -q 'port 4004' $findings
    appliance status --json | python3 -c '
import json, sys
(facts,) = [row for row in json.load(sys.stdin)["sources"] if row["name"] == "journal"]
print(facts)
sys.exit(facts["error"] != "" or facts["gaps"] != 0)' || die "the journal is not whole"
fi
appliance status || [ $? -eq $healthy ] || die "status is another"
check "findings lists it" sh -c 'appliance findings | grep -q "Root Logged In"'

step "kill -9 the daemon: nothing is lost"
if has_systemd; then
    systemctl kill -s KILL --kill-whom=main appliance
else
    kill -KILL "$daemon"
    wait "$daemon" || :
fi
log_attack 5002
start
await "what came meanwhile is found" grep -q 'port 5002' $findings
check "and nothing twice" python3 -c '
import json, sys
found = [json.loads(line) for line in open(sys.argv[1])]
ids = [body["id"] for body in found if "rule_id" in body]
print(ids)
sys.exit(len(ids) < 2 or len(ids) != len(set(ids)))' $findings

if has_systemd; then
    step "a line that hangs is started anew"
    mkdir -p /run/systemd/system/appliance.service.d
    printf '[Service]\nWatchdogSec=4\nTimeoutAbortSec=1\n' \
        >/run/systemd/system/appliance.service.d/watchdog.conf
    systemctl daemon-reload
    systemctl restart appliance
    pid=$(systemctl show --value -p MainPID appliance)
    sleep 6
    check "one that turns is left alone" \
        sh -c "[ $pid = \$(systemctl show --value -p MainPID appliance) ]"
    kill -STOP "$pid"
    await "another process runs" sh -c "[ $pid != \$(systemctl show --value -p MainPID appliance) ] &&
        [ active = \$(systemctl is-active appliance) ]"
    rm -r /run/systemd/system/appliance.service.d
    systemctl daemon-reload
    systemctl restart appliance
    await "the daemon runs" is_running
fi

step "log rotation"
if command -v logrotate >/dev/null; then
    before=$(wc -l <$findings)
    check "logrotate" logrotate -f /etc/logrotate.d/appliance
    log_attack 5003
    await "the next finding is in a new file" grep -q 'port 5003' $findings
    check "the old one is whole" sh -c "[ \$(wc -l <$findings.1) -eq $before ]"
fi

step "upgrade"
kept=$(sha256sum <$config)
stop
count=$(appliance findings --json | wc -l)
check "dpkg -i takes the newer package" dpkg -i /deb-test/new.deb
cat /deb-test/said
log_attack 5004
start
await "the daemon runs" is_running
[ "$(sha256sum <$config)" = "$kept" ] || die "the operator's edit is gone"
printf 'ok: the edit is kept\n'
await "what came meanwhile is found" grep -q 'port 5004' $findings
[ "$(appliance findings --json | wc -l)" -gt "$count" ] || die "findings of before are gone"
printf 'ok: earlier findings are kept\n'
dpkg-query -W appliance

step "remove"
stop
check "dpkg -r" dpkg -r appliance
refute "no process is left" sh -c "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n' | grep '/usr/lib/[a]ppliance'"
refute "no program is left" sh -c 'ls -d /usr/lib/appliance /usr/bin/appliance /usr/share/appliance /lib/systemd/system/appliance.service 2>/dev/null'
check "configuration is kept" test -f $config
check "state is kept" test -f /var/lib/appliance/store.db
check "findings are kept" test -f $findings

step "purge"
check "dpkg -P" dpkg -P appliance
list_files >/deb-test/after
diff /deb-test/before /deb-test/after | grep '^>' || :
refute "nothing with its name is left" \
    sh -c "find / -xdev \( -path /proc -o -path /sys -o -path /deb-test \) -prune -o -name '*appliance*' -print | grep ."
refute "nothing of its user is left" \
    sh -c "find / /run -xdev \( -path /proc -o -path /sys \) -prune -o \( -user appliance -o -group appliance \) -print | grep ."
step "done"
