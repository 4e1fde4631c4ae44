"""Traces what ordinary work on this machine executes: `python -m models.sentinel.trace OUT`.

Every program that the commands of WORK start, with its parent, as strace sees execve. Not a stage:
its result, life/traced_linux.jsonl, is committed. Folders of this machine become /home/dev.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

#: Shell lines of ordinary work; they run in an empty folder and change nothing outside it.
WORK: Final = (
    "apt-get update --print-uris; apt-cache policy bash; apt-cache search zlib;"
    " apt-mark showmanual",
    "apt list --installed; apt-get -s upgrade; apt-cache rdepends libc6; apt-config dump",
    "dpkg -l; dpkg -S /bin/ls; dpkg --verify coreutils; dpkg-query -W; dpkg "
    "--audit; debconf-show tzdata",
    "git init a; cd a; echo x > f; git add .; git -c user.name=a -c "
    "user.email=a@b commit -m one; git log; git status; git diff; git branch b;"
    " git switch b; git gc; git fsck; cd ..; git clone a b; git -C b pull; git "
    "-C b stash list; git -C a tag v1; git -C a archive --format=tar.gz -o "
    "../a.tgz HEAD; git -C b describe --tags",
    "printf '#include <stdio.h>\\nint main(void){puts(\"x\");return 0;}\\n' > h.c; "
    "gcc -O2 -Wall -o h h.c; ./h; gcc -c h.c; ar rcs libh.a h.o; strip h; "
    "objdump -d h.o; nm h.o; size h; ldd /bin/ls; make -p -f /dev/null",
    r"printf 'all: h\nh: h.c\n\tgcc -o h h.c\nclean:\n\trm -f h\n' > Makefile; "
    "make; make clean; make -n all",
    "python3 -m venv --without-pip v; v/bin/python -c 'print(1)'; python3 -m "
    "pip list; python3 -m compileall -q .; python3 -m json.tool /dev/null; "
    "python3 -m zipfile -c z.zip h.c; python3 -m timeit -n 1 pass",
    "tar czf t.tgz h.c Makefile; tar tzf t.tgz; gzip -k h.c; gunzip -f h.c.gz; "
    "xz -k h.c; unxz -f h.c.xz; bzip2 -k h.c",
    "find . -name '*.c' -exec wc -l {} +; grep -rn main .; sort h.c | uniq -c |"
    " head -3; xargs -n1 echo < h.c; sed -i s/x/y/ h.c; awk '{print NF}' h.c; "
    "cut -c1-3 h.c; diff h.c Makefile; sha256sum h.c; md5sum h.c; tee o < h.c",
    "ps aux; ps -ef --forest; free -m; df -h; du -sh .; uptime; id; whoami; "
    "hostname; uname -a; env; date +%F; nproc; lscpu; mount; cat "
    "/etc/os-release; getconf -a; locale; tty; stat h.c; file h.c; which gcc; "
    "ls -la /tmp; readlink -f /bin/sh",
    "run-parts --test /etc/cron.daily; run-parts --test /etc/cron.weekly; sh -n"
    " /etc/cron.daily/dpkg; update-alternatives --display editor; "
    "update-alternatives --get-selections; ldconfig -p; savelog -h",
    "systemctl --version; journalctl --version; loginctl --version; "
    "systemd-detect-virt; systemd-analyze --version",
    "openssl version -a; openssl rand -hex 16; openssl dgst -sha256 h.c; ssh "
    "-V; ssh-keygen -t ed25519 -N '' -f k; ssh-keygen -lf k.pub; gpg --version;"
    " gpg --list-keys; update-ca-certificates --help; openssl req -x509 -newkey"
    " rsa:2048 -nodes -keyout key.pem -out cert.pem -days 1 -subj /CN=a; "
    "openssl x509 -in cert.pem -noout -text",
    "man -w ls; mandb --version; bash -lc 'true'; bash -ic 'true'; su "
    "--version; sudo -V; crontab -l; at -V; logger --version",
    "ip addr; ip route; ss -tlnp; getent hosts localhost; getent passwd root; "
    "curl --version; wget --version; nc -h; ping -c1 127.0.0.1; hostname -I; "
    "sysctl -a; lsmod; dmesg; lsblk; blkid; lspci; lsusb; lsof -v; vmstat 1 1",
    "perl -e 'print 1'; perl -MConfig -e 'print $Config{version}'; mktemp; "
    "mkdir -p x/y; install -m 644 h.c x/y/; ln -s h.c l; cp -a x z; mv z w; rm "
    "-rf w; chmod 600 h.c; touch -d yesterday h.c; rsync -a x/ q/; truncate -s "
    "1k s",
)
_EXEC: Final = re.compile(r'^(\d+)\s+execve\("((?:[^"\\]|\\.)*)", \[(.*?)\](?:\.\.\.)?, .*\) = 0$')
_FORK: Final = re.compile(r"^(\d+)\s+(?:<\.\.\. )?(?:clone3?|v?fork)\b.* = (\d+)$")
_STRING: Final = re.compile(r'"((?:[^"\\]|\\.)*)"')
_PLAIN: Final = re.compile(r"[\w@%+=:,./-]+", re.ASCII)


def parse_trace(text: str, folder: str) -> list[dict[str, str]]:
    """The programs of a trace: image, command line and the image of what started each."""
    images: dict[str, str] = {}
    parents: dict[str, str] = {}
    found = []
    for line in text.splitlines():
        if (match := _FORK.match(line)) is not None:
            parents[match[2]] = match[1]
            images.setdefault(match[2], images.get(match[1], ""))
        elif (match := _EXEC.match(line)) is not None:
            words = [_unescape(word) for word in _STRING.findall(match[3])]
            image = _unescape(match[2])
            above = images.get(parents.get(match[1], ""), "")
            images[match[1]] = image
            command = " ".join(w if _PLAIN.fullmatch(w) else _quote(w) for w in words)
            row = {"image": image, "command": command, "parent": above}
            found.append({k: v.replace(folder, "/home/dev/work") for k, v in row.items()})
    return found


def _unescape(text: str) -> str:
    plain = text.replace('\\"', '"').replace("\\n", "\n").replace("\\t", "\t")
    return plain.replace("\\\\", "\\")


def _quote(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"


def trace_work(lines: tuple[str, ...] = WORK) -> list[dict[str, str]]:
    """Run the lines under strace; each program once. Raises OSError where strace is missing."""
    strace = shutil.which("strace")
    if strace is None:
        raise OSError("strace is not installed")
    rows: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory(prefix="trace-") as folder:
        work = Path(folder, "work")
        work.mkdir()
        log = Path(folder, "trace")
        names = "trace=execve,clone,clone3,fork,vfork"
        for line in lines:
            command = [strace, "-f", "-qq", "-s", "2000", "-e", names, "-o", str(log), "/bin/bash"]
            environment = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": folder}
            subprocess.run(
                [*command, "-c", line], cwd=work, env=environment, stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=120, check=False,
            )  # fmt: skip
            for row in parse_trace(log.read_text(errors="replace"), str(work)):
                if folder not in json.dumps(row):
                    rows.setdefault(row["command"], row)
    return list(rows.values())


def main(arguments: list[str]) -> int:
    """The command line: where to write."""
    rows = trace_work()
    with Path(arguments[0]).open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    print(f"{len(rows)} programs")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
