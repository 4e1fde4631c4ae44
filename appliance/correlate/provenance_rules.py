"""Beside the line, when somebody asks where an incident came from: which parents say nothing.

Every process of a host comes from init or from services.exe in the end, so that an ancestor is
worth naming only below those. Three kinds are told apart, by image, folder and the parent's parent:

- **system parents** (services.exe, svchost.exe -k, explorer.exe, winlogon, wmiprvse, systemd, sshd,
  cron, a terminal): what the system starts everything by. The way up ends below one, and none is a
  way down to its other children. One that was itself started by something else is none: a
  "svchost.exe" that a document started, or one in a user's folder, is the attack's.
- **ordinary hosts** (browsers, office, mail, web servers, databases, agents): they may be the root,
  but what they started before the first suspicious act, and their own helpers, are theirs.
- **shells that a person typed into** may be the root as well; what was typed long before the first
  suspicious act is not part of it.
"""

import re
from typing import Final

from appliance.correlate.provenance_text import name_image

SYSTEM_PARENTS: Final = frozenset(
    {"system", "registry", "smss.exe", "csrss.exe", "wininit.exe", "winlogon.exe", "userinit.exe"}
    | {"services.exe", "lsass.exe", "lsm.exe", "svchost.exe", "explorer.exe", "sihost.exe"}
    | {"taskeng.exe", "taskhost.exe", "taskhostw.exe", "taskhostex.exe", "wmiprvse.exe"}
    | {"dllhost.exe", "runtimebroker.exe", "searchindexer.exe", "fontdrvhost.exe"}
    | {"dwm.exe", "logonui.exe", "spoolsv.exe", "ctfmon.exe", "trustedinstaller.exe"}
    | {"tiworker.exe", "applicationframehost.exe", "startmenuexperiencehost.exe", "searchui.exe"}
    | {"searchapp.exe", "shellexperiencehost.exe", "consent.exe", "msmpeng.exe", "gpscript.exe"}
    | {"rdpclip.exe", "unsecapp.exe", "sshd.exe", "backgroundtaskhost.exe", "wudfhost.exe"}
    | {"systemd", "init", "upstart", "launchd", "kthreadd", "sshd", "sshd-session", "cron"}
    | {"crond", "atd", "anacron", "login", "agetty", "getty", "gdm3", "gdm", "gdm-session-worker"}
    | {"lightdm", "sddm", "dbus-daemon", "dbus-broker", "gnome-shell", "gnome-session-binary"}
    | {"gnome-terminal-server", "konsole", "xterm", "kdeinit5", "xinetd", "inetd", "containerd"}
    | {"containerd-shim", "containerd-shim-runc-v2", "dockerd", "runc", "supervisord", "tmux"}
    | {"tmux: server", "screen", "systemd-logind", "polkitd", "xorg", "auditd", "snapd"}
)
#: Where the real ones of Windows lie; a path of another volume's name ends the same.
_SYSTEM_FOLDERS: Final = re.compile(
    r"(?:.*\\windows\\(?:system32|syswow64|servicing|winsxs|systemapps|immersivecontrolpanel)\\.*"
    r"|.*\\windows\\explorer\.exe|.*\\windows defender\\.*|.*\\openssh\\.*|[^\\/]*)",
    re.IGNORECASE | re.DOTALL,
)
ORDINARY_HOSTS: Final = frozenset(
    {"chrome.exe", "msedge.exe", "firefox.exe", "iexplore.exe", "opera.exe", "brave.exe"}
    | {"winword.exe", "excel.exe", "powerpnt.exe", "outlook.exe", "onenote.exe", "visio.exe"}
    | {"msaccess.exe", "mspub.exe", "acrobat.exe", "acrord32.exe", "thunderbird.exe"}
    | {"teams.exe", "slack.exe", "onedrive.exe", "soffice.bin", "w3wp.exe", "httpd.exe"}
    | {"nginx.exe", "java.exe", "tomcat9.exe", "sqlservr.exe", "mysqld.exe", "php-cgi.exe"}
    | {"monitoringhost.exe", "healthservice.exe", "ccmexec.exe", "splunkd.exe", "nxlog.exe"}
    | {"officeclicktorun.exe", "waappagent.exe", "windowsazureguestagent.exe", "vmtoolsd.exe"}
    | {"chrome", "firefox", "chromium", "thunderbird", "httpd", "nginx", "apache2", "java"}
    | {"mysqld", "mariadbd", "postgres", "php-fpm", "vmtoolsd", "unattended-upgr", "splunkd"}
)
SHELLS: Final = frozenset(
    {"cmd.exe", "powershell.exe", "pwsh.exe", "powershell_ise.exe", "bash.exe", "pwsh"}
    | {"bash", "sh", "dash", "zsh", "fish", "ksh", "tcsh", "csh", "ash"}
)
#: What Windows starts beside a program of its own accord. A console belongs to the process whose it
#: is; below an ordinary host it says nothing.
HELPERS: Final = frozenset({"conhost.exe", "werfault.exe", "wermgr.exe", "openconsole.exe"})
#: A shell's command line that has something to do beside reading what is typed.
_ONLY_OPTIONS: Final = re.compile(
    r"\s*(?:\"[^\"]*\"|\S+)(?:\s+(?:-i|-l|--login|-noexit|-nologo|/k|-bash))*+\s*", re.IGNORECASE
)
#: How long before the first suspicious act what was typed into a shell counts, in seconds.
TYPED_LEAD_S: Final = 600.0


def is_system_image(image: str, command: str) -> bool:
    """True for the image of a system parent, in the folder of one; svchost.exe only with -k,
    where its command line is known."""
    name = name_image(image)
    if name not in SYSTEM_PARENTS or not ("\\" not in image or _SYSTEM_FOLDERS.fullmatch(image)):
        return False
    return name != "svchost.exe" or not command or "-k" in command.lower()


def is_typed_into(image: str, command: str) -> bool:
    """True for a shell whose command line, where it is known, gives it nothing to do."""
    if name_image(image) not in SHELLS:
        return False
    return not command or (len(command) < 512 and _ONLY_OPTIONS.fullmatch(command) is not None)
