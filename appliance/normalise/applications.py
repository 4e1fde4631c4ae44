"""Third station of the line: the forms of messages of databases and of applications that people
log in to with a browser (see forms.py)."""

from typing import Final

from appliance.normalise.forms import ADDRESS, HOST, NAMED, PEER, PORT, Forms, make_forms

MYSQL: Final = make_forms(
    (
        "", "failure",
        r"(?:\d{6} {1,2}\d{1,2}:\d\d:\d\d |\d{4}-\d\d-\d\d {1,2}\d{1,2}:\d\d:\d\d )?(?:\d{1,20} )?"
        r"\[(?:Warning|Note)\] (?:\[MY-\d{6}\] \[Server\] )?Access denied for user"
        rf" '(?P<user>.*)'@'{NAMED}'(?: to database '.{{0,64}}')?(?: \(using password: (?:YES|"
        rf"NO)\))?",
    ),
)  # fmt: skip

MSSQL: Final = make_forms(
    (
        "Logon ", "failure",
        rf"Logon {{1,16}}Login failed for user '(?P<user>.*)'\. Reason: [^\[\]]{{1,400}}"
        rf" \[CLIENT: {ADDRESS}\]",
    ),
    (
        "Logon ", "success",
        rf"Logon {{1,16}}Login succeeded for user '(?P<user>.*)'\. [^\[\]]{{1,400}}"
        rf" \[CLIENT: {ADDRESS}\]",
    ),
)  # fmt: skip

_MONGO_HEAD: Final = r"(?:[IWE] [A-Z]{1,12} {1,8})?\[\w{1,32}\] "
MONGODB: Final = make_forms(
    ("", "", rf"{_MONGO_HEAD}end connection {ADDRESS}:{PORT} \(.{{1,64}}\)"),
    ("", "", rf"{_MONGO_HEAD}connection accepted from {ADDRESS}:{PORT} #\d{{1,12}} \(.{{1,64}}\)"),
    (
        "", "failure",
        rf"{_MONGO_HEAD}\S{{1,32}} authentication failed for (?P<user>\S{{1,255}}) on \S{{1,64}} "
        rf"from"
        rf" client {PEER} ?; .*",
    ),
)  # fmt: skip

POSTGRES: Final = make_forms(
    (
        "", "failure",
        r"(?:\[[\d-]{1,16}\] )?(?:\S{1,64}@\S{1,64} )?FATAL: {1,2}password authentication failed "
        r"for"
        r' user "(?P<user>.*)"',
    ),
)  # fmt: skip

BITWARDEN: Final = make_forms(
    (
        "[", "failure",
        r"\[(?:WRN|Warning|Bit\.[\w.]{1,128})\] Failed login attempt(?:, 2FA invalid)?\."
        rf" {ADDRESS}",
    ),
)  # fmt: skip

VAULTWARDEN: Final = make_forms(
    (
        "[vaultwarden::", "failure",
        r"\[vaultwarden::[\w:]{1,64}\]\[ERROR\] (?:Username or password is incorrect\. Try again\.|"
        r"Invalid admin token[.!]|Invalid TOTP code! Server time: [\d :-]{19} UTC)"
        rf" IP: {ADDRESS}(?:\. Username: (?P<user>.*?)\.?)?",
    ),
)  # fmt: skip

CENTREON: Final = make_forms(
    (
        "|", "failure",
        rf"\|[\d|-]{{1,32}}\|\[WEB\] \[{ADDRESS}\] Authentication failed for '(?P<user>.*)' :.*",
    ),
)  # fmt: skip

#: Drupal's syslog module: base|time|type|address|request|referer|uid|link|message. What the client
#: asked for comes behind its address.
DRUPAL: Final = make_forms(
    (
        "http", "failure",
        rf"https?://[^\s|]{{1,255}}\|\d{{9,11}}\|user\|{ADDRESS}\|.*\|\d{{1,12}}\|[^|"
        rf"]{{0,255}}\|Login"
        r" attempt failed (?:for|from) (?P<user>[^|]*)\.",
    ),
    (
        "http", "",
        rf"https?://[^\s|]{{1,255}}\|\d{{9,11}}\|[\w -]{{1,64}}\|{ADDRESS}\|.*",
    ),
)  # fmt: skip

FROXLOR: Final = make_forms(
    (
        "[Login Action ", "failure",
        rf"\[Login Action {ADDRESS}\] (?:Unknown user|User) '(?P<user>.*)' tried to login.*",
    ),
    (
        "froxlor.WARNING: ", "failure",
        r"froxlor\.WARNING: (?:User tried to login with wrong password|Unknown user tried to "
        r"login)\."
        rf' \{{"source":"login","action":"\d{{1,4}}","user":"{ADDRESS}"\}} \[\]',
    ),
)  # fmt: skip

GITLAB: Final = make_forms(
    ("Failed Login: ", "failure", rf"Failed Login: username=(?P<user>.*) ip={ADDRESS}"),
)  # fmt: skip

GRAFANA: Final = make_forms(
    (
        "t=", "failure",
        r't=(?P<time>[\d-]{10}T[\d:]{8}[+-]\d{4}) lvl=e\w{2,4} msg="Invalid username or password"'
        r' logger=context userId=\d{1,12} orgId=\d{1,12} uname=(?P<user>[^\s="]{0,255}) '
        r'error="[\w ]'
        rf'{{1,64}}" remote_addr=\[?{ADDRESS}\]?',
    ),
)  # fmt: skip

GROUP_OFFICE: Final = make_forms(
    (
        "LOGIN FAILED for ", "failure",
        rf'LOGIN FAILED for user: "(?P<user>.*)" from IP: {ADDRESS}',
    ),
)  # fmt: skip

HORDE: Final = make_forms(
    (
        "HORDE ", "failure",
        r"HORDE \[\w{1,16}\] \[\w{1,32}\] FAILED LOGIN for (?P<user>[^\s\[\]]{1,255})"
        rf" \[{ADDRESS}\] to .*",
    ),
    (
        "[", "failure",
        r"\[\w{1,32}\] FAILED LOGIN for (?P<user>[^\s\[\]]{1,255})"
        rf" \[{ADDRESS}\] to .*",
    ),
)  # fmt: skip

_MONIT_HEAD: Final = r"(?:\w{1,12} {0,8}: )?"
MONIT: Final = make_forms(
    (
        "", "failure",
        rf"{_MONIT_HEAD}HttpRequest: access denied -- client \[?{ADDRESS}\]?: (?:empty password|"
        r"unknown user '(?P<user>.*)')",
    ),
    (
        "", "failure",
        rf"{_MONIT_HEAD}HttpRequest: access denied -- client \[?{ADDRESS}\]?: wrong password for"
        r" user '(?P<user>.*)'",
    ),
    (
        "", "failure",
        rf"{_MONIT_HEAD}Warning: Client '{ADDRESS}' supplied (?:unknown user|wrong password for"
        r" user) '(?P<user>.*)' accessing monit httpd",
    ),
)  # fmt: skip

MONITORIX: Final = make_forms(
    ("- AUTHERR ", "failure", rf"- AUTHERR - \[{ADDRESS}\] Authentication error: .*"),
    ("- NOT", "", rf"- (?:NOTEXIST|NOTALLOWED) - \[{ADDRESS}\] .*"),
)  # fmt: skip

OPENWEBMAIL: Final = make_forms(
    (
        "- [", "failure",
        rf"- \[\d{{1,10}}\] \({ADDRESS}\) (?P<user>\S{{1,255}}) - (?:userinfo|login) error - .*",
    ),
    (
        "- [", "success",
        rf"- \[\d{{1,10}}\] \({ADDRESS}\) (?P<user>\S{{1,255}}) - login - .*",
    ),
)  # fmt: skip

PHPMYADMIN: Final = make_forms(
    (
        "user denied: ", "failure",
        rf"user denied: (?P<user>.*) \([a-z-]{{1,32}}\) from {ADDRESS}",
    ),
    ("user authenticated: ", "success", rf"user authenticated: (?P<user>.*) from {ADDRESS}"),
)  # fmt: skip

PROXMOX: Final = make_forms(
    (
        "authentication failure; ", "failure",
        rf"authentication failure; rhost={ADDRESS} user=(?P<user>.*) msg=.*",
    ),
    ("successful auth ", "success", r"successful auth for user '(?P<user>.*)'"),
)  # fmt: skip

#: The IMAP server's answer repeats the user's name: its beginning may occur but once.
_NO_ANSWER: Final = r"(?:(?!\. [A-Z]{4,16} [A-Z0-9-]{2,16}: ).)*"
ROUNDCUBE: Final = make_forms(
    (
        "", "failure",
        r"(?:<\w{1,16}> )?IMAP Error: Login failed for (?P<user>(?:(?! against [\w.-]+ from |\."
        rf" [A-Z]{{4,16}} [A-Z0-9-]{{2,16}}: ).)*)(?: against {HOST})? from {ADDRESS}"
        r"(?:\(X-[^()]{1,300}\))?(?:\. [A-Z]{4,16} [A-Z0-9-]{2,16}: "
        rf"{_NO_ANSWER})?",
    ),
    (
        "", "failure",
        rf"(?:<\w{{1,16}}> )?(?:FAILED|Failed) login for (?P<user>.*) from {ADDRESS}"
        r"(?:\(X-[^()]{1,300}\))?(?: in session \w{1,64} \(error: \d{1,6}\))?",
    ),
    (
        "", "success",
        rf"(?:<\w{{1,16}}> )?Successful login for (?P<user>.*) \(ID: \d{{1,12}}\) from {ADDRESS}"
        r"(?:\(X-[^()]{1,300}\))? in session \w{1,64}",
    ),
)  # fmt: skip

SOGO: Final = make_forms(
    (
        "SOGoRootPage Login ", "failure",
        rf"SOGoRootPage Login from '{ADDRESS}(?:, [0-9A-Fa-f:., ]{{1,200}})?' for user"
        r" '(?P<user>.*)' might not have worked.*",
    ),
)  # fmt: skip

SQUIRRELMAIL: Final = make_forms(
    (
        # Month first: the plugin's own form of date.
        "", "failure",
        r"(?P<month>\d\d)/(?P<day>\d\d)/(?P<year>\d{4}) (?P<clock>\d\d:\d\d:\d\d) \[LOGIN_ERROR\]"
        rf" (?P<user>\S{{1,255}}) \([^\s()]{{1,255}}\) from {ADDRESS}: .*",
    ),
)  # fmt: skip

TINE20: Final = make_forms(
    (
        "", "failure",
        r"\w{5} \w{5} -- \S{1,255} -- - (?P<time>\S{19,25}) WARN \(\d\): "
        r"Tinebase_Controller::login::"
        rf"\d{{1,5}} Login with username (?P<user>.*) from {ADDRESS} failed \(-?\d{{1,4}}\)!",
    ),
)  # fmt: skip

WEBMIN: Final = make_forms(
    *(
        (
            f"{word} login ", result,
            rf"{word} login as (?P<user>.*) from {ADDRESS}",
        )
        for word, result in (
            ("Invalid", "failure"), ("Non-existent", "failure"), ("Successful", "success")
        )
    ),
)  # fmt: skip

#: HTTP log of haproxy: the peer comes first, what it asked for last.
_HAPROXY_HEAD: Final = (
    rf"{ADDRESS}:{PORT} \[[\w/:.]{{20,32}}\] \S{{1,128}} \S{{1,128}} [\d/+-]{{9,64}}"
)
HAPROXY: Final = make_forms(
    ("", "failure", rf"{_HAPROXY_HEAD} 401 .*"),
    ("", "", rf"{_HAPROXY_HEAD} -?\d{{1,3}} .*"),
)  # fmt: skip

SUHOSIN: Final = make_forms(
    (
        "", "",
        r"(?:\(mod_\w{1,32}\.c\.\d{1,6}\) FastCGI-stderr: )?ALERT(?:-SIMULATION)? - .* \(attacker"
        rf" '{ADDRESS}', file '[^']{{1,512}}'(?:, line \d{{1,9}})?\)",
    ),
)  # fmt: skip

DIRECTADMIN: Final = make_forms(
    (
        "'", "failure",
        rf"'{ADDRESS}' \d{{1,9}} failed login attempts?\. (?:Account|Invalid account)"
        r" '(?P<user>[^']{0,255})'(?: via '[^']{0,255}')?",
    ),
    ("'", "success", rf"'{ADDRESS}' successful login to '(?P<user>[^']{{0,255}})'.*"),
)  # fmt: skip

CPANEL: Final = make_forms(
    *(
        (
            "info [cpsrvd] ", result,
            rf"info \[cpsrvd\] {ADDRESS} - (?P<user>[^\s\"]{{1,255}})(?: \(possessor: [^\s()]"
            rf'{{1,64}}\) -| -| "[^"]{{1,512}}") {word} LOGIN \w{{1,32}}.*',
        )
        for word, result in (("FAILED", "failure"), ("SUCCESS", "success"))
    ),
    (
        "info [cpsrvd] ", "",
        rf"info \[cpsrvd\] {ADDRESS} PURGE (?P<user>[^\s:]{{1,255}}):\S{{1,64}} \w{{1,32}}",
    ),
)  # fmt: skip

#: Program of a syslog line -> its forms.
PROGRAMS: Final[dict[str, Forms]] = {
    **dict.fromkeys(("mysqld", "mariadbd"), MYSQL),
    **dict.fromkeys(("postgres", "postgresql"), POSTGRES),
    "mongod": MONGODB,
    "bitwarden": BITWARDEN,
    "froxlor": FROXLOR,
    "horde": HORDE,
    "monit": MONIT,
    "phpmyadmin": PHPMYADMIN,
    **dict.fromkeys(("pvedaemon", "pveproxy"), PROXMOX),
    "roundcube": ROUNDCUBE,
    "sogod": SOGO,
    "webmin": WEBMIN,
    "haproxy": HAPROXY,
    **dict.fromkeys(("suhosin", "lighttpd"), SUHOSIN),
}
