"""Reads collections of commands: of attacks (atomic-red-team, stockpile, lolbas, gtfobins, encoded
PowerShell) and of ordinary work (nl2bash, tldr)."""

import json
import random
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from appliance.detect.sentinel.texts import write_texts
from models.sentinel.corpus.deeds import derive_deeds
from models.sentinel.corpus.fill import fill_arguments, fill_lolbas, fill_tldr
from models.sentinel.options import Options
from models.sentinel.rows import Example, Split, draw, split_words
from models.sentinel.scrub import scrub_text
from models.sentinel.shapes import LINUX_PARENTS, WINDOWS_PARENTS, System, render_process

#: Forms in which one command is written.
RENDERS: Final = 3
#: Encoded commands that are taken of all.
_MAX_ENCODED: Final = 1000
_MAX_SCRIPT: Final = 16_000
_PROGRAM_LINE: Final = re.compile(
    r"^\s*(?:&\s+)?[\"']?(?:[\w:\\%$./-]{0,160}[\\/])?(reg|net|net1|sc|schtasks|wmic|rundll32|regsvr32|mshta|certutil|"
    r"bitsadmin|msiexec|netsh|nltest|whoami|ipconfig|systeminfo|tasklist|taskkill|vssadmin|wevtutil|"
    r"bcdedit|icacls|takeown|attrib|cmd|powershell|cscript|wscript|ntdsutil|dsquery|wbadmin|fsutil|"
    r"auditpol|nslookup|ping|arp|route|netstat|query|quser|qwinsta|cmdkey|klist|setspn|esentutl|"
    r"expand|makecab|curl|tar|ssh|ftp|winrs|winrm|dism|sdbinst|odbcconf|forfiles|pcalua|control|"
    r"msbuild|installutil|regasm|regsvcs|csc|cmstp|hh|xwizard|psexec\w*|procdump\w*|mimikatz|rubeus|"
    r"adfind|sharphound|seatbelt|[\w-]{1,40}\.exe)(?:\.exe)?[\"']?(?=\s|$)",
    re.IGNORECASE,
)
_BUILTIN: Final = re.compile(
    r"\s*(?:@?echo|set|if|for|cd|chdir|del|erase|copy|move|mkdir|md|rd|rmdir|type|call|rem|::|goto|exit|"
    r"start|ren|pushd|popd|dir|cls|pause|ver|vol|assoc|ftype|mklink|\)|:\w)",
    re.IGNORECASE,
)
_SHELL_WORD: Final = re.compile(
    r"\s*(?:if|then|else|elif|fi|for|while|until|do|done|case|esac|function|\{|\}|\(|\)|#|\w+=|cd|export|"
    r"source|\.|set|unset|echo|printf|read|return|exit|trap|alias|local|shift|eval|:|\[)(?:\s|$|=|\()"
)
#: Lines of a configuration that an example shows are no commands.
_STARTS_PROGRAM: Final = re.compile(r"[\w./~$\"'][^:=]{0,200}?(?:\s|$)(?<!:)")
_VERB_NOUN: Final = re.compile(r"\s*(?:\$\w+|\[[\w.]+\]|[A-Z][a-z]+-[A-Z]\w+)")


def write_command(
    command: str,
    system: System,
    rng: random.Random,
    parents: Sequence[str],
    *,
    count: int = RENDERS,
    image: str = "",
) -> Iterator[tuple[str, str, str]]:
    """A command as processes, in `count` drawn forms: (kind, text, form)."""
    command = command.strip()
    if command:
        for _ in range(count):
            for text, form in render_process(command, system, parents, rng, image=image):
                yield "process", text, form


def write_script(script: str) -> Iterator[tuple[str, str, str]]:
    """A PowerShell script as script blocks."""
    for text in write_texts("script", {"ScriptBlockText": scrub_text(script[:_MAX_SCRIPT])}):
        yield text.kind, text.text, "4104"


def write_cmd(commands: str, rng: random.Random) -> Iterator[tuple[str, str, str]]:
    """What the prompt of Windows makes of lines: cmd itself, and each program as its child."""
    lines = [line.strip().lstrip("@") for line in commands.splitlines() if line.strip()]
    if not lines:
        return
    whole = " & ".join(lines)
    if len(whole) <= 600:
        form = rng.choice(
            (
                '"cmd.exe" /c {}',
                "cmd.exe /c {}",
                'C:\\Windows\\system32\\cmd.exe /c "{}"',
                "cmd /c {}",
            )
        )
        yield from write_command(form.format(whole), "windows", rng, WINDOWS_PARENTS, count=2)
    for line in lines[:24]:
        for part in re.split(r"\s+&&?\s+|\s+\|\|?\s+", line):
            if len(part) > 2 and not _BUILTIN.match(part):
                yield from write_command(
                    re.sub(r"\s+(?:1|2)?>>?\s*(?:nul|&1|\S+)\s*", " ", part),
                    "windows",
                    rng,
                    WINDOWS_PARENTS[:13],
                )


def write_powershell(script: str, rng: random.Random) -> Iterator[tuple[str, str, str]]:
    """What PowerShell makes of a script: its blocks, itself with -Command, programs as children."""
    yield from write_script(script)
    joined = "; ".join(line.strip() for line in script.splitlines() if line.strip())
    if 0 < len(joined) <= 500:
        form = rng.choice(
            (
                '"powershell.exe" & {{{}}}',
                'powershell.exe -NoProfile -Command "{}"',
                "powershell -c {}",
                'powershell.exe -ExecutionPolicy Bypass -Command "{}"',
                "powershell {}",
            )
        )
        yield from write_command(form.format(joined), "windows", rng, WINDOWS_PARENTS, count=2)
    for line in script.splitlines()[:40]:
        if _PROGRAM_LINE.match(line) and "$" not in line[:3]:
            part = line.split("|")[0].strip().lstrip("& ").rstrip(";")
            yield from write_command(part, "windows", rng, WINDOWS_PARENTS[6:13], count=2)


def write_shell(commands: str, rng: random.Random) -> Iterator[tuple[str, str, str]]:
    """What a Linux shell makes of lines: `sh -c` of the whole, and each program as its child."""
    joined = re.sub(r"\\\n\s*", " ", commands)
    lines = [
        line.strip()
        for line in joined.splitlines()
        if line.strip() and not line.lstrip().startswith("#")
    ]
    whole = "; ".join(line.rstrip(";") for line in lines)
    if 0 < len(whole) <= 500 and (len(lines) > 1 or re.search(r"[|&;<>]", whole)):
        form = rng.choice(("sh -c {}", "bash -c '{}'", "/bin/sh -c {}", "/bin/bash -c {}"))
        yield from write_command(form.format(whole), "linux", rng, LINUX_PARENTS, count=2)
    for line in lines[:24]:
        for part in split_pipeline(line):
            if len(part) > 2 and _STARTS_PROGRAM.match(part) and not _SHELL_WORD.match(part):
                yield from write_command(part, "linux", rng, LINUX_PARENTS, count=2)


def split_pipeline(line: str) -> list[str]:
    """The programs of a shell's line, split at pipes and lists outside quotes and brackets, without
    what redirects them: what execve sees."""
    parts: list[str] = []
    current: list[str] = []
    quote = ""
    depth = 0
    for place, letter in enumerate(line):
        if quote:
            quote = "" if letter == quote and line[place - 1] != "\\" else quote
        elif letter in "'\"`":
            quote = letter
        elif letter in "({":
            depth += 1
        elif letter in ")}":
            depth -= 1
        elif (
            letter in "|;&"
            and depth <= 0
            and line[place - 1 : place] != ">"
            and line[place - 1 : place] != "\\"
        ):
            parts.append("".join(current))
            current = []
            continue
        current.append(letter)
    parts.append("".join(current))
    cleaned = (re.sub(r"\s\d?>>?\s*&?\S+|\s<\s*\S+", "", part).strip() for part in parts)
    return [part for part in cleaned if part]


def _rows(  # noqa: PLR0917 - the row's own fields
    written: Iterator[tuple[str, str, str]],
    label: int,
    source: str,
    group: str,
    system: System,
    split: Split,
    techniques: Sequence[str] = (),
    weight: float = 1.0,
    *,
    explicit: bool = False,
) -> Iterator[Example]:
    seen: set[str] = set()
    for kind, text, form in written:
        if text not in seen:
            seen.add(text)
            short = kind == "process" and " " not in text.partition(" : ")[2].strip()
            yield Example(
                text=text,
                kind=kind,
                label=label,
                source=source,
                group=group,
                shape=form,
                os=system,
                weight=weight * (0.5 if short and label == 1 else 1.0),
                techniques=list(techniques),
                split=split,
                attack_event=label == 1,
                explicit=explicit,
            )


def _rng(options: Options, group: str) -> random.Random:
    return random.Random(f"{options.seed}:{group}")


def split_attack(source: str, group: str) -> Split:
    """One group of attack commands in ten is for validation, the rest for training."""
    return "valid" if draw(source, group) < 10 else "train"


def read_atomic(options: Options) -> Iterator[Example]:
    """atomic-red-team: each test's own commands, with the defaults of its arguments."""
    root = options.data / "knowledge" / "atomic-red-team"
    for path in sorted(root.rglob("T*.yaml")):
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        technique = str(document["attack_technique"])
        for number, test in enumerate(document.get("atomic_tests") or ()):
            executor = test.get("executor") or {}
            system = _find_system(test.get("supported_platforms") or ())
            command = fill_arguments(
                str(executor.get("command") or ""), test.get("input_arguments") or {}
            )
            if system is None or not command.strip():
                continue
            group = f"atomic:{technique}:{test.get('auto_generated_guid', number)}"
            written = list(
                _write_by(str(executor.get("name")), command, system, _rng(options, group))
            )
            if system == "windows":
                written += write_deeds(command)
            yield from _rows(
                iter(written),
                1,
                "atomic-red-team",
                group,
                system,
                split_attack("atomic", technique),
                [technique],
            )


def write_deeds(commands: str) -> Iterator[tuple[str, str, str]]:
    """What the lines of a test leave behind in the registry, services and tasks."""
    for line in commands.splitlines()[:40]:
        for kind, fields, form in derive_deeds(scrub_text(line), ""):
            for text in write_texts(kind, fields):
                yield text.kind, text.text, form


def _find_system(platforms: Sequence[str]) -> System | None:
    if "windows" in platforms:
        return "windows"
    return "linux" if "linux" in platforms else None


def _write_by(
    executor: str, command: str, system: System, rng: random.Random
) -> Iterator[tuple[str, str, str]]:
    if executor in ("command_prompt", "cmd"):
        return write_cmd(command, rng)
    if executor in ("powershell", "psh", "pwsh"):
        return write_powershell(command, rng)
    if executor in ("sh", "bash") and system == "linux":
        return write_shell(command, rng)
    return iter(())


def read_stockpile(options: Options) -> Iterator[Example]:
    """stockpile's abilities: for the test alone."""
    root = options.data / "knowledge" / "stockpile"
    for path in sorted(root.rglob("*.yml")):
        for ability in yaml.safe_load(path.read_text(encoding="utf-8")) or ():
            technique = str((ability.get("technique") or {}).get("attack_id") or "")
            for platforms, executors in (ability.get("platforms") or {}).items():
                system = _find_system(platforms.split(","))
                for name, about in executors.items() if system else ():
                    command = str((about or {}).get("command") or "")
                    command = re.sub(r"#\{([\w.]+)\}", _fill_fact, command)
                    group = f"stockpile:{ability.get('id')}"
                    written = list(
                        _write_by(
                            name.split(",")[0],
                            command,
                            system or "linux",
                            _rng(options, group + platforms),
                        )
                    )
                    if system == "windows":
                        written += write_deeds(command)
                    yield from _rows(
                        iter(written),
                        1,
                        "stockpile",
                        group,
                        system or "linux",
                        "test",
                        [technique] if technique else [],
                    )


def _fill_fact(match: re.Match[str]) -> str:
    name = match[1]
    for part, value in (
        ("user", "jsmith"),
        ("password", "Summer2024!"),
        ("host", "srv7"),
        ("domain", "corp"),
        ("ip", "10.1.2.3"),
        ("server", "http://203.0.113.9:8888"),
        ("dir", "/tmp/data"),
        ("file", "/tmp/data/notes.txt"),
        ("pid", "4242"),
    ):
        if part in name:
            return value
    return "data"


def read_lolbas(options: Options) -> Iterator[Example]:
    """LOLBAS: each command of each abused program."""
    for path in sorted((options.data / "knowledge" / "lolbas" / "yml").rglob("*.yml")):
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        group = f"lolbas:{path.stem}"
        rng = _rng(options, group)
        for entry in document.get("Commands") or ():
            technique = str(entry.get("MitreID") or "")
            command = str(entry.get("Command") or "")
            written: list[tuple[str, str, str]] = []
            for _ in range(2):
                filled = fill_lolbas(command, rng)
                whole = re.sub(r"\s{1,8}[12]?>>?\s{0,8}\S+", "", filled)
                writes = (
                    write_script(filled)
                    if _VERB_NOUN.match(filled)
                    else write_command(whole, "windows", rng, WINDOWS_PARENTS, count=2)
                )
                written += writes
            yield from _rows(
                iter(written),
                1,
                "lolbas",
                group,
                "windows",
                split_attack("lolbas", path.stem),
                [technique] if technique else [],
                0.8,
            )


#: Functions of GTFOBins: what of ATT&CK they are, and how sure a use of them is an attack.
_FUNCTIONS: Final[dict[str, tuple[list[str], float]]] = {
    "shell": (["T1059.004", "T1548"], 0.8),
    "reverse-shell": (["T1059.004", "T1095"], 1.0),
    "bind-shell": (["T1059.004", "T1095"], 1.0),
    "command": (["T1059.004"], 0.6),
    "library-load": (["T1574.006"], 0.6),
    "privilege-escalation": (["T1548"], 1.0),
    "upload": (["T1048"], 0.5),
    "download": (["T1105"], 0.5),
    "file-read": (["T1005"], 0.15),
    "file-write": (["T1565.001"], 0.15),
}


def read_gtfobins(options: Options) -> Iterator[Example]:
    """GTFOBins: each way of each program, weighted by how telling it is."""
    for path in sorted((options.data / "knowledge" / "gtfobins" / "_gtfobins").iterdir()):
        document = next(iter(yaml.safe_load_all(path.read_text(encoding="utf-8"))), None) or {}
        group = f"gtfobins:{path.name}"
        rng = _rng(options, group)
        for function, uses in (document.get("functions") or {}).items():
            techniques, weight = _FUNCTIONS.get(function, ([], 0.0))
            for use in uses if weight else ():
                code = str(use.get("code") or "")
                for old, new in (
                    (
                        "/path/to/input-file",
                        rng.choice(("/etc/shadow", "/etc/passwd", "/root/.ssh/id_rsa", "/tmp/a")),
                    ),
                    (
                        "/path/to/output-file",
                        rng.choice(("/tmp/x", "/etc/cron.d/job", "/dev/shm/a", "/var/tmp/b")),
                    ),
                    ("/path/to/", "/tmp/"),
                    ("attacker.com", rng.choice(("203.0.113.9", "site.example"))),
                    ("12345", str(rng.choice((4444, 443, 8080, 9001, 1337)))),
                ):
                    code = code.replace(old, new)
                yield from _rows(
                    write_shell(code, rng),
                    1,
                    "gtfobins",
                    group,
                    "linux",
                    split_attack("gtfobins", path.name),
                    techniques,
                    weight,
                )


def read_encoded(options: Options) -> Iterator[Example]:
    """psencmds: PowerShell attacks as they were run, encoded; what they hide comes beside them."""
    path = options.data / "commands" / "psencmds" / "ps_encodedcommand_data.zip"
    with zipfile.ZipFile(path) as packed:
        text = packed.read("ps_encodedcommand_data.txt").decode("utf-8", "replace")
    blocks = re.findall(r"\[Original Code\]\s+(\"(?:[^\"\\]|\\.)*\")", text)
    # Most are generated by the same few tools.
    blocks = blocks[:: max(1, len(blocks) // _MAX_ENCODED)]
    for number, block in enumerate(blocks):
        try:
            command = json.loads(block)
        except ValueError:
            continue
        group = f"psencmds:{number}"
        rng = _rng(options, group)
        split: Split = "valid" if draw("psencmds", str(number)) < 10 else "train"
        written = list(write_command(command, "windows", rng, WINDOWS_PARENTS, count=1))
        hidden = [(k, t, f) for k, t, f in written if " xxb64 : " in t][:3]
        written = [row for row in written if " xxb64 : " not in row[1]] + hidden
        as_script = [
            ("script", "script : " + t.partition(" xxb64 : ")[2], "4104") for _, t, _ in hidden
        ]
        yield from _rows(
            iter(written + as_script),
            1,
            "psencmds",
            group,
            "windows",
            split,
            ["T1059.001", "T1027"],
            0.8,
        )


#: Programs that tldr documents and that are tools of attackers, or are told by their use only.
_OFFENSIVE: Final = split_words(
    "nmap hydra sqlmap msfvenom msfconsole hashcat john aircrack-ng airodump-ng aireplay-ng "
    "airbase-ng nikto gobuster ffuf dirb dirbuster wfuzz feroxbuster masscan zmap netcat nc "
    "ncat socat responder crackmapexec nxc netexec evil-winrm impacket bloodhound mimikatz "
    "wpscan medusa ncrack patator enum4linux smbmap theharvester amass subfinder recon-ng "
    "bettercap ettercap reaver wifite kismet searchsploit beef hping3 arpspoof dsniff "
    "proxychains proxychains4 chisel ligolo rustscan sublist3r dnsrecon dnsenum fierce nuclei "
    "commix xsser sherlock holehe tcpreplay yersinia mdk3 mdk4 slowloris slowhttptest hashid "
    "hash-identifier crunch cewl fcrackzip pdfcrack rarcrack binwalk steghide stegsnow "
    "volatility radare2 frida ysoserial chntpw fping airmon-ng rkdeflate linpeas pwncat "
    "wireshark tshark"
)


def read_nl2bash(options: Options) -> Iterator[Example]:
    """nl2bash: ordinary work in shells."""
    lines = (
        (options.data / "commands" / "nl2bash" / "all.cm").read_text(encoding="utf-8").splitlines()
    )
    for line in sorted(set(lines)):
        group = f"nl2bash:{line[:80]}"
        rng = _rng(options, group)
        if draw("nl2bash-some", line) >= 60:
            continue
        split: Split = "valid" if draw("nl2bash", line) < 10 else "train"
        form = rng.choice(("sh -c {}", "bash -c '{}'", "/bin/sh -c {}", "{}"))
        parts = split_pipeline(line)
        written: list[tuple[str, str, str]] = []
        if len(parts) > 1:
            written += write_command(form.format(line), "linux", rng, LINUX_PARENTS, count=1)
        for part in parts[:4]:
            if not _SHELL_WORD.match(part):
                written += write_command(part, "linux", rng, LINUX_PARENTS, count=1)
        yield from _rows(iter(written), 0, "nl2bash", group, "linux", split, weight=0.8)


def read_tldr(options: Options) -> Iterator[Example]:
    """tldr: the uses that pages show of ordinary programs; one page in five is for the test."""
    root = options.data / "commands" / "tldr"
    for path in sorted(root.rglob("*.md")):
        program = path.stem.split(".")[0]
        if program.split("-")[0] in _OFFENSIVE or program in _OFFENSIVE:
            continue
        windows = path.parent.name == "windows"
        group = f"tldr:{path.parent.name}/{path.stem}"
        rng = _rng(options, group)
        split: Split = "test" if draw("tldr", path.stem) < 20 else "train"
        written: list[tuple[str, str, str]] = []
        for line in path.read_text(encoding="utf-8").splitlines():
            if not (line.startswith("`") and line.endswith("`") and len(line) > 4):
                continue
            command = fill_tldr(line[1:-1], rng, windows=windows)
            if windows and _VERB_NOUN.match(command):
                written += write_script(command)
            elif windows:
                written += (
                    row
                    for row in write_command(command, "windows", rng, WINDOWS_PARENTS, count=2)
                    if not _BUILTIN.match(command)
                )
            elif draw("tldr-some", line, path.stem) < 50:
                for part in split_pipeline(command)[:3]:
                    written += write_command(part, "linux", rng, LINUX_PARENTS, count=1)
        yield from _rows(
            iter(written), 0, "tldr", group, "windows" if windows else "linux", split, weight=0.8
        )


def list_commands(options: Options) -> list[Path]:
    """The folders that these readers need, for the message when one is missing."""
    return [options.data / "knowledge", options.data / "commands"]


def read_commands(options: Options) -> Iterator[Example]:
    """Every collection, one after another."""
    readers: tuple[Any, ...] = (
        read_atomic,
        read_stockpile,
        read_lolbas,
        read_gtfobins,
        read_encoded,
        read_nl2bash,
        read_tldr,
    )
    for read in readers:
        yield from read(options)
