"""Third station of the line: the forms of FTP servers' messages (see forms.py)."""

from typing import Final

from appliance.normalise.forms import ADDRESS, HOST, Forms, make_forms

#: proftpd names its own host and the session's peer before each message.
_PROFTPD_PEER: Final = rf"(?:{HOST} )?\((?:{HOST})?\[{ADDRESS}\]\)(?::| -) "
PROFTPD: Final = make_forms(
    ("", "failure", rf"{_PROFTPD_PEER}USER (?P<user>.{{0,255}}) \(Login failed\): .*"),
    ("", "failure", rf"{_PROFTPD_PEER}USER (?P<user>.*): no such user found from .*"),
    ("", "failure", rf"{_PROFTPD_PEER}SECURITY VIOLATION: (?P<user>\S{{1,64}}) login attempted\.?"),
    ("", "failure", rf"{_PROFTPD_PEER}Maximum login attempts \(\d{{1,9}}\) exceeded.*"),
    ("", "success", rf"{_PROFTPD_PEER}(?:USER|ANON) (?P<user>.*): Login successful\.?"),
    ("", "failure", rf"{_PROFTPD_PEER}Connection from .* denied\.?"),
    ("refused connect ", "failure", rf"refused connect from {HOST} \({ADDRESS}\)"),
)  # fmt: skip

VSFTPD: Final = make_forms(
    *(
        (
            "[", result,
            r"(?:\[pid \d{1,10}\] )?\[(?P<user>[^\[\]\"]{0,255})\] "
            rf'{word} LOGIN: Client "{ADDRESS}"(?:, .*)?',
        )
        for word, result in (("FAIL", "failure"), ("OK", "success"))
    ),
    ("", "", rf'(?:\[pid \d{{1,10}}\] )?CONNECT: Client "{ADDRESS}"(?:, .*)?'),
)  # fmt: skip

PURE_FTPD: Final = make_forms(
    (
        "(", "failure",
        rf"\([^@()\s]{{0,64}}@{ADDRESS}\) \[WARNING\] Authentication failed for user"
        r" \[(?P<user>.*)\]",
    ),
    (
        "(", "success",
        rf"\([^@()\s]{{0,64}}@{ADDRESS}\) \[INFO\] (?P<user>\S{{1,255}}) is now logged in",
    ),
    ("(", "", rf"\([^@()\s]{{0,64}}@{ADDRESS}\) \[[A-Z]{{1,16}}\] .*"),
)  # fmt: skip

WU_FTPD: Final = make_forms(
    (
        "connection from ", "",
        rf"connection from {ADDRESS} \((?:{HOST})?\)(?: at [\w: ]{{1,40}})?",
    ),
    ("failed login ", "failure", rf"failed login from {HOST} \[{ADDRESS}\]"),
    ("repeated login ", "failure", rf"repeated login failures from {ADDRESS} \({HOST}\)"),
    (
        "FTP LOGIN FROM ", "success",
        rf"FTP LOGIN FROM {HOST} \[{ADDRESS}\], (?P<user>\S{{1,255}})",
    ),
)  # fmt: skip

#: Program of a syslog line -> its forms.
PROGRAMS: Final[dict[str, Forms]] = {
    "proftpd": PROFTPD,
    "vsftpd": VSFTPD,
    "pure-ftpd": PURE_FTPD,
    **dict.fromkeys(("wu-ftpd", "wuftpd", "ftpd", "in.ftpd"), WU_FTPD),
}
