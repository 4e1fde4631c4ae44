"""Third station of the line: the programs of a Linux or Unix host that syslog names."""

from typing import Final

#: Program -> the Sigma service that is its own.
OWN_SERVICES: Final[dict[str, str]] = {
    "sshd": "sshd", "sshd-session": "sshd", "sshd-auth": "sshd",
    "sudo": "sudo",
    "cron": "cron", "crond": "cron", "anacron": "cron", "crontab": "cron",
    "vsftpd": "vsftpd",
    "clamd": "clamav", "clamav": "clamav", "clamscan": "clamav", "freshclam": "clamav",
    "guacd": "guacamole", "guacamole": "guacamole",
    "apache2": "apache", "httpd": "apache", "apache": "apache",
    "nginx": "nginx",
}  # fmt: skip
#: Programs that log to authpriv by themselves.
AUTH_PROGRAMS: Final = frozenset(
    {"sshd", "sshd-session", "sshd-auth", "sudo", "su", "login", "systemd-logind", "passwd"}
    | {"chpasswd", "gpasswd", "chage", "chfn", "chsh", "useradd", "userdel", "usermod", "groupadd"}
    | {"groupdel", "groupmod", "newusers", "polkitd", "pkexec", "gdm-password", "lightdm", "sssd"}
    | {"unix_chkpwd", "rlogind", "rshd", "doas"}
)
#: Programs of the host itself: whatever their message looks like, it is theirs and is no event of
#: another product that they pass on.
HOST_PROGRAMS: Final = AUTH_PROGRAMS | OWN_SERVICES.keys() | {"kernel", "systemd"}
