"""Writes one act in the forms of log that it comes in, by the same draws for attacks and for
ordinary life: with and without the parent, with the program's name only inside the command line,
with the program's full path or as it was typed. So no form tells the label.
"""

import random
import re
from collections.abc import Sequence
from typing import Final, Literal

from appliance.detect.sentinel.texts import write_texts
from models.sentinel.rows import split_words
from models.sentinel.scrub import scrub_text

System = Literal["windows", "linux", "network"]
#: What starts commands that are typed or scripted, for attacks and for ordinary work alike.
WINDOWS_PARENTS: Final = (
    *["C:\\Windows\\System32\\cmd.exe"] * 6,
    *["C:\\Windows\\System32\\WindowsPowerShell\\v1.0\\powershell.exe"] * 4,
    *["C:\\Windows\\explorer.exe"] * 3,
    *["C:\\Windows\\System32\\svchost.exe"] * 2,
    "C:\\Windows\\System32\\wbem\\WmiPrvSE.exe",
    "C:\\Windows\\System32\\services.exe",
    "C:\\Windows\\System32\\msiexec.exe",
    "C:\\Windows\\System32\\wscript.exe",
)
LINUX_PARENTS: Final = (
    *["/bin/bash"] * 4,
    *["/bin/sh"] * 3,
    "/usr/bin/sudo",
    "/usr/sbin/cron",
    "/usr/lib/systemd/systemd",
    "/usr/sbin/sshd",
    "/usr/bin/python3",
)
#: (form, whether it tells the parent, whether it tells the image), with its share in percent.
_WINDOWS_FORMS: Final = (
    ("sysmon1", True, True, 45),
    ("4688", True, True, 15),
    ("4688-2012", False, True, 25),
    ("commandline", False, False, 15),
)
_LINUX_FORMS: Final = (
    ("sysmon-linux", True, True, 20),
    ("auditd", False, True, 45),
    ("shell", False, False, 35),
)
#: Programs of System32 that are mostly typed without their path.
_TYPED: Final = split_words(
    "arp at attrib auditpol bcdedit bitsadmin cacls certreq certutil cipher cmd cmdkey "
    "cscript curl defrag diskpart diskshadow dism dnscmd driverquery dsget dsquery esentutl "
    "eventcreate expand extrac32 fc find findstr forfiles fsutil ftp gpresult gpupdate "
    "hostname icacls installutil ipconfig klist ksetup logman makecab manage-bde mavinject "
    "mmc mode mofcomp mshta msiexec mstsc nbtstat net net1 netdom netsh netstat nltest "
    "nslookup ntdsutil odbcconf openfiles pathping ping pnputil powercfg powershell print psr "
    "quser query qwinsta reg regedit regsvr32 replace robocopy route rundll32 runas sc "
    "schtasks sdbinst secedit setx shutdown sort systeminfo takeown tar taskkill tasklist "
    "timeout tracert tskill tzutil vaultcmd vssadmin w32tm wbadmin wevtutil where whoami "
    "winrm winrs wmic wscript wusa xcopy"
)
_SYSTEM_PATH: Final = re.compile(
    r"\"?(?:[a-z]:\\windows|%systemroot%|%windir%)\\(?:system32|syswow64)\\"
    r"(?:wbem\\|windowspowershell\\v1\.0\\)?([\w-]{1,40})(?:\.exe)?\"?(?=\s|$)",
    re.IGNORECASE,
)
_TYPED_NAME: Final = re.compile(r"\"?([\w-]{1,40})(?:\.exe)?\"?(?=\s|$)", re.IGNORECASE)
_FOLDERS: Final = {"powershell": "WindowsPowerShell\\v1.0\\", "wmic": "wbem\\"}
_PROGRAM: Final = re.compile(
    r"\"([^\"]{1,260})\"|((?:[a-z]:|%\w+%|\\\\)?[^\s\"]*(?:\s[^\s\"/-][^\s\"]*){0,6}?"
    r"\.(?:exe|com|scr|bat|cmd|tmp))(?=\s|$)|([^\s\"]{1,260})",
    re.IGNORECASE,
)
_ASSIGNMENT: Final = re.compile(r"[A-Za-z_]\w*=\S*")


def find_image(command: str, system: System) -> str:
    """The program's name in a command line, without its folder; "" where there is none. A bare name
    of Windows gets the `.exe` that its process has."""
    command = command.strip().lstrip("'")[:1024]
    if system == "windows":
        match = _PROGRAM.match(command)
        path = (
            ""
            if match is None
            else next(part for part in (*match.groups(), "") if part is not None)
        )
        name = re.split(r"[\\/]", path)[-1].strip("'")
        return name if not name or "." in name else f"{name}.exe"
    for word in command.split(" ", 16):
        if word and _ASSIGNMENT.fullmatch(word) is None:
            return word.rsplit("/", 1)[-1].strip("\"'()")
    return ""


def vary_program(command: str, rng: random.Random) -> str:
    """The command line with a system program's name in one of the forms in which it is logged: as
    typed, with its extension, with its path, in quotes."""
    match = _SYSTEM_PATH.match(command) or _TYPED_NAME.match(command)
    if match is None or match[1].lower() not in _TYPED:
        return command
    name = match[1]
    path = f"C:\\Windows\\system32\\{_FOLDERS.get(name.lower(), '')}{name}.exe"
    written = rng.choice((match[0], name, f"{name}.exe", path, f'"{path}"'))
    return written + command[match.end() :]


def render_process(
    command: str,
    system: System,
    parents: Sequence[str],
    rng: random.Random,
    *,
    image: str = "",
) -> list[tuple[str, str]]:
    """One process event of the command in a form that is drawn, as (text, form); none for a command
    that holds nothing. More than one where the command hides a script."""
    forms = _WINDOWS_FORMS if system == "windows" else _LINUX_FORMS
    form, tells_parent, tells_image, _ = rng.choices(forms, [row[3] for row in forms])[0]
    command = scrub_text(command)
    if system == "windows":
        command = vary_program(command, rng)
    fields = {"CommandLine": command}
    if tells_image:
        fields["Image"] = scrub_text(image) if image else find_image(command, system)
    if tells_parent and parents:
        fields["ParentImage"] = scrub_text(rng.choice(parents))
    return [(text.text, form) for text in write_texts("process", fields)]
