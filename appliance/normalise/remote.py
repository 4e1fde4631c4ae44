"""Third station of the line: the forms of messages of remote access, tunnels, proxies and port
watchers (see forms.py)."""

from typing import Final

from appliance.normalise.forms import ADDRESS, HOST, PORT, Forms, make_forms

_DROPBEAR_HEAD: Final = (
    r"(?:\[\d{1,10}\] (?:[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d )?)?"
)  # fmt: skip
_DROPBEAR_PEER: Final = rf"<?{ADDRESS}:{PORT}>?"
DROPBEAR: Final = make_forms(
    (
        "", "failure",
        rf"{_DROPBEAR_HEAD}[Bb]ad (?:password|PAM password) attempt for '(?P<user>.*)' from"
        rf" {_DROPBEAR_PEER}",
    ),
    (
        "", "failure",
        rf"{_DROPBEAR_HEAD}[Ll]ogin attempt for nonexistent user(?: '(?P<user>.*)')? from"
        rf" {_DROPBEAR_PEER}",
    ),
    (
        "", "failure",
        rf"{_DROPBEAR_HEAD}Exit before auth from {_DROPBEAR_PEER}: (?:\(user '[^']*', \d{{1,9}}"
        r" fails\): )?Max auth tries reached - user '(?P<user>.*)'",
    ),
    (
        "", "failure",
        rf"{_DROPBEAR_HEAD}Exit before auth(?: \(user '[^']*', \d{{1,9}} fails\))?: Max auth tries"
        rf" reached - user '(?P<user>.*)' from {_DROPBEAR_PEER}",
    ),
    (
        "", "success",
        rf"{_DROPBEAR_HEAD}(?:Password|PAM password|Pubkey) auth succeeded for '(?P<user>.*)'"
        rf"(?: with [a-z0-9-]{{1,32}} key \S{{1,100}})? from {_DROPBEAR_PEER}",
    ),
)  # fmt: skip

OPENVPN: Final = make_forms(
    (
        "", "failure",
        rf"(?:[^\s/]{{1,255}}/)?{ADDRESS}:{PORT} (?:TLS Auth Error: |VERIFY ERROR: |TLS Error: TLS"
        r" handshake failed).*",
    ),
    ("", "", rf"(?:[^\s/]{{1,255}}/)?{ADDRESS}:{PORT} [A-Z\[].*"),
    (
        "TLS Error: ", "failure",
        rf"TLS Error: [A-Za-z ]{{1,100}} from \[AF_INET6?\]{ADDRESS}:{PORT}(?: .*)?",
    ),
    ("LDAP bind failed: ", "failure", r"LDAP bind failed: .*"),
    (
        "Incorrect password ", "failure",
        r'Incorrect password supplied for LDAP DN "(?P<user>.*)"',
    ),
)  # fmt: skip

XRDP: Final = make_forms(
    (
        "", "failure",
        rf"(?:\[INFO ?\] )?AUTHFAIL: user=(?P<user>.*) ip={ADDRESS} time=\d{{1,12}}",
    ),
)  # fmt: skip

SOFTETHER: Final = make_forms(
    (
        "", "failure",
        r'(?:(?:[\w.-]{1,255} {1,2})?\[[^\[\]\s]{1,255}\] \([\d .:-]{19,30}\) <SECURITY_LOG>: '
        r')?Connection "CID-\d{1,9}": User'
        r' authentication failed\. The user name that has been provided was "(?P<user>.*)", from'
        rf" {ADDRESS}\.",
    ),
)  # fmt: skip

GUACAMOLE: Final = make_forms(
    (
        "", "failure",
        r"(?:WARNING: |\d\d:\d\d:\d\d\.\d{3} \[[\w-]{1,64}\] WARN {1,2}[\w.]{1,128} - )?"
        rf"Authentication attempt from \[?{ADDRESS}(?:, [0-9A-Fa-f:., ]{{1,200}})?\]? for user"
        r' "(?P<user>.*)" failed\.',
    ),
    (
        "", "success",
        r"(?:\d\d:\d\d:\d\d\.\d{3} \[[\w-]{1,64}\] INFO {1,2}[\w.]{1,128} - )?"
        rf'User "(?P<user>.*)" successfully authenticated from \[?{ADDRESS}'
        r"(?:, [0-9A-Fa-f:., ]{1,200})?\]?\.",
    ),
)  # fmt: skip

SCREEN_SHARING: Final = make_forms(
    *(
        (
            f"Authentication: {word}", result,
            rf"Authentication: {word} :: User Name: (?P<user>.*) :: Viewer Address: {ADDRESS} ::"
            r" Type: \w{1,16}",
        )
        for word, result in (("FAILED", "failure"), ("SUCCEEDED", "success"))
    ),
)  # fmt: skip

_SOCKET: Final = r"(?P<src_ip>\d{1,3}(?:\.\d{1,3}){3})\.(?P<src_port>\d{1,5})"
DANTE: Final = make_forms(
    (
        "", "failure",
        rf"info: block\(\d{{1,5}}\): tcp/accept \]: {_SOCKET} \d[\d.]{{8,21}}: error after reading"
        r" \d{1,9} bytes? in \d{1,9} seconds?: [a-z_() ]{1,100} user \"(?P<user>.*)\".*",
    ),
)  # fmt: skip

PROXY3: Final = make_forms(
    *(
        (
            "", result,
            rf"(?:PROXY|SOCKS|FTPPR|POP3P|ADMIN)\.\d{{1,5}} {codes} (?P<user>\S{{1,255}})"
            rf" {ADDRESS}:{PORT} \d[\d.]{{6,14}}:\d{{1,5}} .*",
        )
        # 1 to 9: access denied or login wrong (3proxy's manual, "Log error codes").
        for codes, result in (("0000[1-9]", "failure"), (r"\d{5}", ""))
    ),
)  # fmt: skip

STUNNEL: Final = make_forms(
    (
        "", "",
        rf"(?:LOG\d\[[\d:]{{1,40}}\]: )?SSL_accept from {ADDRESS}:{PORT} : .*",
    ),
    (
        "", "",
        rf"(?:LOG\d\[[\d:]{{1,40}}\]: )?Service \[[^\[\]]{{1,64}}\] accepted connection from"
        rf" {ADDRESS}:{PORT}",
    ),
)  # fmt: skip

XINETD: Final = make_forms(
    ("FAIL: ", "failure", rf"FAIL: [\w-]{{1,64}} (?:address|libwrap|time) from={ADDRESS}"),
    ("START: ", "", rf"START: [\w-]{{1,64}} (?:pid=\d{{1,10}} )?from={ADDRESS}"),
)  # fmt: skip

NRPE: Final = make_forms(
    ("Host ", "failure", rf"Host {ADDRESS} is not allowed to talk to us!"),
)  # fmt: skip

SCANLOGD: Final = make_forms(
    (
        "", "",
        rf"{ADDRESS}(?::\d{{1,5}})? to (?P<dst_ip>[0-9A-Fa-f:.]{{2,45}}) ports .*",
    ),
)  # fmt: skip

PORTSENTRY: Final = make_forms(
    (
        "- ", "",
        rf"- \d\d/\d\d/\d{{4}} \d\d:\d\d:\d\d Host: {HOST}/{ADDRESS} Port:"
        r" (?P<dst_port>\d{1,5}) (?:TCP|UDP) Blocked",
    ),
    (
        "attackalert: ", "",
        rf"attackalert: [\w /]{{1,64}} from host: {HOST}/{ADDRESS} to (?:TCP|UDP) port:"
        r" (?P<dst_port>\d{1,5})",
    ),
)  # fmt: skip

NSD: Final = make_forms(
    (
        "", "",
        r"(?:nsd\[\d{1,10}\]: )?(?:info: )?ratelimit (?:block|unblock) \S{1,255} type \S{1,16} "
        r"target"
        rf" [0-9A-Fa-f:./]{{2,49}} query {ADDRESS} \S{{1,16}}",
    ),
    (
        "", "failure",
        r"(?:nsd\[\d{1,10}\]: )?(?:info: )?axfr for (?:zone )?\S{1,255} from (?:client )?"
        rf"{ADDRESS} refused, no acl matches\.?",
    ),
)  # fmt: skip

FAIL2BAN: Final = make_forms(
    (
        "", "",
        r"(?:fail2ban\.actions {0,16}(?:\[\d{1,10}\])?: )?(?:NOTICE {1,3})?"
        rf"\[[\w.-]{{1,128}}\] (?:Ban|Unban|Restore Ban) {ADDRESS}",
    ),
)  # fmt: skip

SLAPD: Final = make_forms(
    (
        "conn=", "",
        rf"conn=\d{{1,12}} fd=\d{{1,9}} ACCEPT from IP=\[?{ADDRESS}\]?:{PORT} \(IP=.*\)",
    ),
    # tag 97 is a bind response, error 49 invalidCredentials (RFC 4511, sections 4.2.2 and 4.1.9).
    ("conn=", "failure", r"conn=\d{1,12} op=\d{1,9} RESULT tag=97 err=49 .*"),
    ("conn=", "success", r"conn=\d{1,12} op=\d{1,9} RESULT tag=97 err=0 .*"),
)  # fmt: skip

RSHD: Final = make_forms(
    ("Connection from ", "failure", rf"Connection from {ADDRESS} on illegal port"),
)  # fmt: skip

SAMBA: Final = make_forms(
    ("Denied connection ", "failure", rf"Denied connection from (?:{HOST} )?\({ADDRESS}\)"),
)  # fmt: skip

CIMSERVER: Final = make_forms(
    ("PGS17200: ", "failure", r"PGS17200: Authentication failed for user (?P<user>.*)\."),
)  # fmt: skip

DOAS: Final = make_forms(
    ("failed auth ", "failure", r"failed auth for (?P<user>\S{1,255})"),
    ("failed command ", "failure", r"failed command for (?P<user>\S{1,255}): (?P<command>.*)"),
    (
        "", "success",
        r"(?P<user>\S{1,255}) ran command (?P<command>.*) as (?P<target_user>\S{1,255}) from .*",
    ),
    (
        "", "success",
        r"(?P<user>\S{1,255}) ran command as (?P<target_user>[^\s:]{1,255}): (?P<command>.*)",
    ),
)  # fmt: skip

WAZUH_RESPONSE: Final = make_forms(
    (
        "/", "",
        rf"/\S{{1,128}}/active-response/bin/[\w.-]{{1,64}} (?:add|delete) \S{{1,64}} {ADDRESS}"
        r" [\d.]{1,32} \d{1,9}",
    ),
)  # fmt: skip

_ROUTEROS_HEAD: Final = (
    r"(?:(?P<hostname>[\w.-]{1,255}) )?system,(?:error,critical|info,account):? "
)  # fmt: skip
ROUTEROS: Final = make_forms(
    (
        "", "failure",
        rf"{_ROUTEROS_HEAD}login failure for user (?P<user>.*) from"
        rf" {ADDRESS} via [\w-]{{1,16}}",
    ),
    (
        "", "success",
        rf"{_ROUTEROS_HEAD}user (?P<user>.*) logged in from"
        rf" {ADDRESS} via [\w-]{{1,16}}",
    ),
)  # fmt: skip

#: Program of a syslog line -> its forms.
PROGRAMS: Final[dict[str, Forms]] = {
    "dropbear": DROPBEAR,
    **dict.fromkeys(("openvpn", "ovpn-server", "ovpn"), OPENVPN),
    "xrdp-sesman": XRDP,
    "vpnserver": SOFTETHER,
    **dict.fromkeys(("guacd", "guacamole"), GUACAMOLE),
    "screensharingd": SCREEN_SHARING,
    **dict.fromkeys(("danted", "sockd"), DANTE),
    "3proxy": PROXY3,
    "stunnel": STUNNEL,
    "xinetd": XINETD,
    "nrpe": NRPE,
    "scanlogd": SCANLOGD,
    "portsentry": PORTSENTRY,
    "nsd": NSD,
    **dict.fromkeys(("fail2ban.actions", "fail2ban-server", "fail2ban"), FAIL2BAN),
    "slapd": SLAPD,
    **dict.fromkeys(("rshd", "rlogind"), RSHD),
    "smbd": SAMBA,
    "cimserver": CIMSERVER,
    "doas": DOAS,
}
