"""Third station of the line: the forms of mail servers' messages (see forms.py).

Of a refused message (relay, unknown recipient, block list) only the peer is told: `result` is that
of a login.
"""

from typing import Final

from appliance.normalise.forms import ADDRESS, HOST, PORT, Forms, join_forms, make_forms

_POSTFIX_PEER: Final = rf"(?:{HOST})?\[{ADDRESS}\](?::{PORT})?"
_POSTFIX_WORD: Final = r"[A-Z][A-Z ]{1,40}(?: \(\d{1,12} bytes\))?"

POSTFIX: Final = make_forms(
    (
        "warning: ", "failure",
        rf"warning: {_POSTFIX_PEER}: SASL [A-Za-z0-9_-]{{1,32}} authentication failed"
        r"(?::(?: [^=]{0,512}, sasl_username=(?P<user>[^\s,]{1,255})|.*))?",
    ),
    (
        "warning: ", "",
        rf"warning: hostname {HOST} does not resolve to address {ADDRESS}(?:: .*)?",
    ),
    (
        "warning: ", "",
        rf"warning: [A-Z][\w ]{{1,48}} limit exceeded: \d{{1,9}} from {_POSTFIX_PEER} for service"
        r" \S{1,64}",
    ),
    (
        "improper command ", "",
        rf"improper command pipelining after {_POSTFIX_WORD} from {_POSTFIX_PEER}(?::.*)?",
    ),
    ("too many errors ", "", rf"too many errors after {_POSTFIX_WORD} from {_POSTFIX_PEER}"),
    (
        "lost connection ", "",
        rf"lost connection after {_POSTFIX_WORD} from {_POSTFIX_PEER}",
    ),
    ("NOQUEUE: lost ", "", rf"NOQUEUE: lost connection after {_POSTFIX_WORD} from {_POSTFIX_PEER}"),
    ("connect from ", "", rf"connect from {_POSTFIX_PEER}"),
    # auth=0/1 counts one login tried, none accepted.
    ("disconnect from ", "failure", rf"disconnect from {_POSTFIX_PEER}(?: \w+=\S+)*? auth=0/.*"),
    ("disconnect from ", "", rf"disconnect from {_POSTFIX_PEER}(?: .*)?"),
    ("PREGREET ", "", rf"PREGREET \d{{1,9}} after \S{{1,16}} from {_POSTFIX_PEER}: .*"),
    (
        "HANGUP ", "",
        rf"HANGUP after \S{{1,16}} from {_POSTFIX_PEER} in tests (?:before|after) SMTP handshake",
    ),
    ("COMMAND ", "", rf"COMMAND [A-Z ]{{1,32}} from {_POSTFIX_PEER}(?: after .*|: .*)?"),
    (
        "", "",
        rf"(?:NOQUEUE|[0-9A-Za-z]{{6,20}}): (?:milter-)?reject: [A-Z]{{4,10}} from {_POSTFIX_PEER}:"
        r" .*",
    ),
    (
        "", "success",
        rf"[0-9A-Za-z]{{6,20}}: client={_POSTFIX_PEER}, sasl_method=[A-Z0-9-]{{1,32}},"
        r" sasl_username=(?P<user>\S{1,255})(?:, .*)?",
    ),
    ("", "", rf"[0-9A-Za-z]{{6,20}}: client={_POSTFIX_PEER}"),
)  # fmt: skip

_DOVECOT_HEAD: Final = (
    r"(?:dovecot: )?(?:Info: )?(?:(?:imap|pop3|managesieve|submission|lmtp)-login: )?(?:Info: )?"
)
_DOVECOT_PEER: Final = (
    rf"(?:user=<(?P<user>.*)>, )?(?:method=[^,\s]{{1,32}}, )?rip={ADDRESS}(?:, .*)?"
)
#: Why, in the server's words: before the first `<`, which begins the user's name.
_DOVECOT_WHY: Final = r"[A-Z][^<]{0,400}?"
#: Dovecot's own auth_username_chars hold no comma or parenthesis.
_DOVECOT_WORKER: Final = (
    r"(?:dovecot: )?(?:(?:auth|auth-worker)(?:\([^()]{1,64}\))?: )?(?:Info: )?"
    r"(?:conn unix:[a-z-]{1,32} \([^()]{1,64}\): )?(?:auth-worker<\d{1,10}>: )?"
    rf"[a-z][a-z0-9-]{{1,24}}\((?P<user>[^(),]{{0,255}}),{ADDRESS}(?:,[^(),]{{0,64}})?\): "
)
DOVECOT: Final = make_forms(
    (
        "", "failure",
        rf"{_DOVECOT_HEAD}{_DOVECOT_WHY}\([^<()]{{0,64}}(?:auth failed|tried to use [a-z]+"
        rf" [\w-]{{1,16}} auth)[^<()]{{0,64}}\)[^<]{{0,64}}: {_DOVECOT_PEER}",
    ),
    ("", "success", rf"{_DOVECOT_HEAD}Login: user=<(?P<user>[^<>]{{0,255}})>, "
        rf"method=[^,\s]{{1,32}}, rip={ADDRESS}, lip=[0-9A-Fa-f:.]{{2,45}}(?:, .*)?"),
    (
        "", "",
        rf"{_DOVECOT_HEAD}(?:Login: user=<(?P<user>[^<>]{{0,255}})>, method=[^,\s]{{1,32}}, "
        rf"rip={ADDRESS}(?:, .*)?)",
    ),
    (
        "", "",
        rf"{_DOVECOT_HEAD}(?:Disconnected|Aborted login|Login aborted|Client has quit|Remote "
        rf"closed)"
        rf"[^<]{{0,400}}?: {_DOVECOT_PEER}",
    ),
    (
        "", "failure",
        rf"{_DOVECOT_WORKER}(?:unknown user|[Pp]assword mismatch|invalid credentials|"
        r"pam_authenticate\(\) failed|user not found).*",
    ),
    (
        # Since 2.4: auth(user,address,mechanism)<session>: Info: passdb: reason
        "auth(", "failure",
        rf"auth\((?P<user>[^(),]{{0,255}}),{ADDRESS}(?:,[^(),<>]{{0,64}})?\)(?:<[^<>]{{0,64}}>)?: "
        r"(?:Info: )?[a-z][a-z0-9-]{1,24}: (?:unknown user|[Pp]assword mismatch).*",
    ),
)  # fmt: skip

#: The name that a client gave itself stands in parentheses.
_EXIM_PEER: Final = (
    rf"(?:{HOST} )?(?:\([^()\s]{{0,255}}\) )?\[{ADDRESS}\](?::{PORT})?"
    r"(?: I=\[[0-9A-Fa-f:.]{2,45}\](?::\d{1,5})?)?(?: Ci=\d{1,10})?"
)
_EXIM_HEAD: Final = (
    r"(?:\d{4}-\d\d-\d\d \d\d:\d\d:\d\d )?(?:info exim\[\d{1,10}\]: )?(?:\[\d{1,10}\] )?"
    r"(?:[0-9A-Za-z]{6}-[0-9A-Za-z]{6,11}-[0-9A-Za-z]{2,4} )?"
)
EXIM: Final = make_forms(
    (
        "", "failure",
        rf"{_EXIM_HEAD}\w{{1,64}} authenticator failed for {_EXIM_PEER}: 535 Incorrect"
        r" authentication data(?: \(set_id=(?P<user>.*)\))?(?:: \d{1,9} Time\(s\))?",
    ),
    (
        "", "",
        rf"{_EXIM_HEAD}(?:F=\S{{1,320}} )?H={_EXIM_PEER}"
        r"(?: (?:F=<[^<>]{0,320}>|[A-Za-z]{1,4}=\S{0,320})){0,8}"
        r" (?:(?:temporarily )?rejected |sender verify |dropped |incomplete ).*",
    ),
    (
        "", "",
        rf"{_EXIM_HEAD}SMTP protocol synchronization error \([^()]{{1,100}}\): rejected"
        rf' (?:connection from|"[^"]{{0,512}}") H={_EXIM_PEER}(?: (?:next )?input="(?:(?! H=).)*)?',
    ),
    (
        "", "",
        rf'{_EXIM_HEAD}SMTP protocol error in ".*" H={_EXIM_PEER} [A-Z][A-Za-z ]{{1,80}}',
    ),
    (
        "", "",
        rf"{_EXIM_HEAD}SMTP call from {_EXIM_PEER} dropped: .*",
    ),
    (
        "", "",
        rf"{_EXIM_HEAD}(?:no MAIL in )?SMTP connection from {_EXIM_PEER}"
        r"(?: (?:D=|closed by |lost|\(TCP/IP).*)?",
    ),
    ("", "", rf"{_EXIM_HEAD}no host name found for IP address {ADDRESS}"),
    (
        "", "",
        rf"{_EXIM_HEAD}no IP address found for host {HOST} \(during SMTP connection from"
        rf" {_EXIM_PEER}\)",
    ),
    (
        "", "",
        rf"{_EXIM_HEAD}SA: Action: .* \(host={HOST} \[{ADDRESS}\]\) for [^\s()\[\]]{{1,320}}",
    ),
)  # fmt: skip

_SENDMAIL_HEAD: Final = r"(?:[0-9A-Za-z]{6,20}: )?"
_SENDMAIL_PEER: Final = (
    rf"(?:{HOST} )?\[(?:IPv6:)?{ADDRESS}\](?: \(may be forged\))?"
)  # fmt: skip
#: An envelope address; one with blanks or brackets inside is passed over, since it can hold more.
_SENDMAIL_ARGUMENT: Final = r"(?:<[^<>,\s]{0,320}>|[^\s,<>]{0,255})"
SENDMAIL: Final = make_forms(
    ("", "failure", rf"{_SENDMAIL_HEAD}{_SENDMAIL_PEER}: possible SMTP attack: command=AUTH, .*"),
    ("", "", rf"{_SENDMAIL_HEAD}{_SENDMAIL_PEER}: possible SMTP attack: command=[A-Z]{{4}}, .*"),
    (
        "", "failure",
        rf"{_SENDMAIL_HEAD}AUTH failure \([^()]{{1,32}}\): [^=]*?(?:, user=(?P<user>.*))?, relay="
        rf"{_SENDMAIL_PEER}",
    ),
    (
        "", "success",
        rf"{_SENDMAIL_HEAD}AUTH=server, relay={_SENDMAIL_PEER}, authid=(?P<user>[^\s,]{{1,255}}),"
        r" mech=.*",
    ),
    (
        "", "",
        rf"{_SENDMAIL_HEAD}ruleset=\w{{1,32}}, arg1={_SENDMAIL_ARGUMENT}"
        rf"(?:, arg2=[^\s,]{{0,255}})?, relay={_SENDMAIL_PEER}, reject=.*",
    ),
    (
        "", "",
        rf"{_SENDMAIL_HEAD}rejecting commands from  ?{_SENDMAIL_PEER} due to pre-greeting .*",
    ),
    ("", "", rf"{_SENDMAIL_HEAD}{_SENDMAIL_PEER}: [A-Za-z]{{4}} .* \[rejected\]"),
    ("", "", rf"{_SENDMAIL_HEAD}from=.*, relay={_SENDMAIL_PEER}"),
    (
        "", "",
        rf"{_SENDMAIL_HEAD}{_SENDMAIL_PEER} did not issue [A-Z/]{{4,40}} during connection .*",
    ),
    ("", "", rf"{_SENDMAIL_HEAD}lost input channel from {_SENDMAIL_PEER} to \S{{1,64}} after .*"),
)  # fmt: skip

COURIER: Final = make_forms(
    (
        "LOGIN FAILED, ", "failure",
        rf"LOGIN FAILED, (?:user=(?P<user>.*)|method=[^,\s]{{1,32}}), ip=\[{ADDRESS}\]"
        rf"(?:, port=\[{PORT}\])?",
    ),
    (
        "LOGIN, ", "success",
        rf"LOGIN, user=(?P<user>.*), ip=\[{ADDRESS}\](?:, port=\[{PORT}\])?"
        r"(?:, protocol=[A-Z0-9]{1,16})?",
    ),
)  # fmt: skip
COURIER_SMTP: Final = make_forms(
    (
        "error,relay=", "failure",
        rf'error,relay={ADDRESS}(?:,port={PORT})?,msg="535 Authentication failed\.".*',
    ),
    ("error,relay=", "", rf"error,relay={ADDRESS}(?:,port={PORT})?,.*"),
)  # fmt: skip

CYRUS: Final = make_forms(
    (
        "badlogin: ", "failure",
        rf"badlogin: (?:{HOST} ?)?\[{ADDRESS}\] [A-Za-z0-9-]{{1,32}} (?:authentication failure.*|"
        r"(?:(?P<user>[^\s\[\]]{1,255}) )?\[?SASL\(-?\d{1,4}\): .*)",
    ),
    (
        "login: ", "success",
        rf"login: (?:{HOST} ?)?\[{ADDRESS}\] (?P<user>[^\s\[\]]{{1,255}}) [A-Za-z0-9+-]{{1,32}}"
        r" User logged in.*",
    ),
)  # fmt: skip

UW_IMAP: Final = make_forms(
    (
        "Login ", "failure",
        r"Login (?:failed|excessive login failures|disabled) user=(?P<user>.*) auth=\S* host="
        rf"{HOST} \[{ADDRESS}\]",
    ),
    ("Login ", "success", rf"Login user=(?P<user>.*) host={HOST} \[{ADDRESS}\](?: nmsgs=\S+)?"),
    (
        "Failed ", "failure",
        rf"Failed \w{{1,16}} override of user=(?P<user>.*\S) {{1,2}}host={HOST} \[{ADDRESS}\]",
    ),
)  # fmt: skip

SOLID_POP3: Final = make_forms(
    (
        "", "failure",
        r"(?:authentication failed: (?:no such user|can't map user name): |"
        r"(?:APOP )?authentication failed for (?:mapped )?user |can't find APOP secret for user )"
        rf"(?P<user>.*) - {ADDRESS}",
    ),
    ("root login ", "failure", rf"(?P<user>root) login not allowed - {ADDRESS}"),
)  # fmt: skip

_PERDITION_PEER: Final = rf"{ADDRESS}:{PORT}->(?P<dst_ip>[0-9A-Fa-f:.]{{2,45}}):\d{{1,5}}"
_PERDITION_AUTH: Final = (
    rf"Auth: {_PERDITION_PEER} [^\"]{{0,200}}authentication_id=\"(?P<user>[^\"]{{0,255}})\" .* "
)
PERDITION: Final = make_forms(
    ("Auth: ", "failure", rf'{_PERDITION_AUTH}status="failed[^"]{{0,200}}"'),
    ("Auth: ", "success", rf'{_PERDITION_AUTH}status="ok"'),
    (
        "Fatal Error ", "failure",
        rf"Fatal Error reading authentication information from client {_PERDITION_PEER}: .*",
    ),
)  # fmt: skip

QMAIL: Final = make_forms(
    ("", "", rf"(?:\d{{1,12}}\.\d{{1,9}} )?rblsmtpd: {ADDRESS} pid \d{{1,10}} .*"),
    ("", "", rf"(?:\d{{1,12}}\.\d{{1,9}} )?qmail-smtpd: \d{{3}} \w{{1,16}}: ip {ADDRESS} rbl: .*"),
    ("", "", rf"{HOST} blocked {ADDRESS} .*"),
)  # fmt: skip

OPENSMTPD: Final = make_forms(
    (
        "smtp-in: New session ", "",
        rf"smtp-in: New session [0-9a-f]{{16}} from host {HOST} \[{ADDRESS}\]",
    ),
    (
        "smtp-in: Failed command ", "failure",
        r'smtp-in: Failed command on session [0-9a-f]{16}: "AUTH .*" => 535 .*',
    ),
)  # fmt: skip

ASSP: Final = make_forms(
    ("Blocking ", "failure", rf"Blocking {ADDRESS} - too much AUTH errors \(\d{{1,9}}\);?"),
    (
        "", "failure",
        r"(?:m\d-\d{5}-\d{5} )?(?:\[(?:Worker_\d{1,4}|TLS-in|TLS-out|SSL-in|SSL-out)\] ){1,4}"
        rf"{ADDRESS} (?:\[SMTP Error\] 535 |max sender authentication errors ).*",
    ),
    (
        "", "",
        r"(?:m\d-\d{5}-\d{5} )?(?:\[(?:Worker_\d{1,4}|TLS-in|TLS-out|SSL-in|SSL-out|RelayAttempt)"
        rf"\] ){{1,4}}{ADDRESS} (?:<[^<>]{{0,320}}> |SSL negotiation ).*",
    ),
)  # fmt: skip

_DOMINO_PEER: Final = rf"\[?{ADDRESS}\]?"
DOMINO: Final = make_forms(
    (
        "smtp: ", "failure",
        rf"smtp: (?P<user>.*) {_DOMINO_PEER} authentication failure using internet password",
    ),
    (
        "SMTP Server", "failure",
        r"SMTP Server(?: \[[0-9A-F:-]{4,40}\]|:) Authentication failed for user (?P<user>.*) ;"
        rf" connecting host {_DOMINO_PEER}",
    ),
    (
        "SMTP Server", "",
        rf"SMTP Server(?: \[[0-9A-F:-]{{4,40}}\]|:) Connection from {_DOMINO_PEER} rejected .*",
    ),
)  # fmt: skip

KERIO: Final = make_forms(
    (
        "Attempt to deliver ", "",
        r"Attempt to deliver to unknown recipient <[^<>]{0,320}>, from <[^<>]{0,320}>, IP address"
        rf" {ADDRESS}",
    ),
    ("SMTP Spam attack ", "", rf"SMTP Spam attack detected from {ADDRESS}, .*"),
    ("IP address ", "", rf"IP address {ADDRESS} found in DNS blacklist .*"),
    ("Relay attempt ", "", rf"Relay attempt from IP address {ADDRESS}, .*"),
    (
        "SMTP: User ", "failure",
        rf"SMTP: User (?P<user>.*) doesn't exist\. Attempt from IP address {ADDRESS}\.",
    ),
    ("Client with IP ", "", rf"Client with IP address {ADDRESS} has no reverse DNS entry, .*"),
    (
        "Administration login ", "failure",
        rf"Administration login into [\w ]{{1,64}} from {ADDRESS} failed: .*",
    ),
    ("Message from IP ", "", rf"Message from IP address {ADDRESS}, .*"),
    ("Failed ", "failure", rf"Failed [A-Z0-9]{{2,12}} login from {ADDRESS} with .*"),
)  # fmt: skip

ORACLE_IMS: Final = make_forms(
    (
        "<co ", "failure",
        r'<co ts="(?P<time>[0-9T:.-]{19,26})" pi="[0-9a-f.]{1,32}" sc="[^"]{0,64}" dr="[+-]"'
        rf' ac="U" tr="TCP\|[0-9A-Fa-f:.]{{2,45}}\|\d{{1,5}}\|{ADDRESS}\|{PORT}"'
        r' ap="[A-Z0-9]{1,16}" mi="Bad password" us="(?P<user>[^"]{0,320})" di="[^"]{0,512}"/>',
    ),
)  # fmt: skip

IMAPD: Final = join_forms(COURIER, CYRUS, UW_IMAP)

#: Program of a syslog line -> its forms.
PROGRAMS: Final[dict[str, Forms]] = {
    "postfix": POSTFIX,
    **dict.fromkeys(
        ("dovecot", "dovecot-auth", "auth", "auth-worker", "imap-login", "pop3-login",
         "managesieve-login", "submission-login", "info", "warn"),
        DOVECOT,
    ),
    **dict.fromkeys(("exim", "exim4"), EXIM),
    **dict.fromkeys(("sendmail", "sm"), SENDMAIL),
    **dict.fromkeys(("courieresmtpd", "courieresmtp"), COURIER_SMTP),
    **dict.fromkeys(
        ("imapd", "imaps", "imap", "pop3d", "pop3", "pop3s", "ipop3d", "sieve", "timsieved",
         "cyrus", "courierpop3login", "courierimaplogin", "courierpop3d", "courierimapd"),
        IMAPD,
    ),
    "solid-pop3d": SOLID_POP3,
    "perdition": PERDITION,
    **dict.fromkeys(("qmail", "qmail-smtpd", "rblsmtpd"), QMAIL),
    "smtpd": OPENSMTPD,
}  # fmt: skip
