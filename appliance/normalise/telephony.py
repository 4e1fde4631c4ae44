"""Third station of the line: the forms of messages of telephone, chat and game servers (see
forms.py). SIP's names, numbers and call ids are the peer's; several stand in one message."""

from typing import Final

from appliance.normalise.forms import ADDRESS, PEER, PORT, Forms, make_forms

_ASTERISK_HEAD: Final = (
    r"(?:\[[\w :.-]{8,32}\] )?"
    r"(?:NOTICE|WARNING|SECURITY|ERROR|VERBOSE|DEBUG) ?\[\d{1,10}\](?:\[C-[0-9a-f]{8}\])?:? "
    r"(?:[a-z0-9_/]{1,64}\.c:(?:\d{1,6})?(?: (?:in )?\w{1,64}:)? {1,2})?"
)
#: The name in a SIP URI, with or without what is displayed.
_SIP_USER: Final = (
    r"(?:\"[^\"]{0,255}\" ?)?<?(?:sips?:)?(?P<user>[^\s@<>\";]{0,128})@"
)  # fmt: skip
ASTERISK: Final = make_forms(
    (
        "", "failure",
        rf"{_ASTERISK_HEAD}Registration from '(?:{_SIP_USER})?.*' failed for '{PEER}' - "
        r"[A-Za-z/() ]{1,64}",
    ),
    (
        # The call id behind the address is the peer's too: the words may occur but once.
        "", "failure",
        rf"{_ASTERISK_HEAD}Request(?: '[A-Z]{{1,16}}')? from '(?:{_SIP_USER})?"
        rf"(?:(?!' failed for ').)*' failed for '{PEER}' \(callid: (?:(?!' failed for ').)*\) - "
        r"(?:Failed to authenticate|Error to authenticate|No matching endpoint found|Not match"
        r" Endpoint ACL|Not match Endpoint Contact ACL)(?: after \d{1,9} tries in [\d.]{1,16} ms)?",
    ),
    (
        "", "failure",
        rf"{_ASTERISK_HEAD}(?:Host )?{ADDRESS} failed (?:to authenticate as|MD5 authentication for)"
        r" '(?P<user>.*)'(?: \([0-9a-f]{1,64} != [0-9a-f]{1,64}\))?",
    ),
    (
        "", "failure",
        rf"{_ASTERISK_HEAD}{ADDRESS} tried to authenticate with nonexistent user '(?P<user>.*)'",
    ),
    (
        "", "failure",
        rf"{_ASTERISK_HEAD}No registration for peer '(?P<user>.*)' \(from {ADDRESS}\)",
    ),
    (
        "", "",
        rf"{_ASTERISK_HEAD}Call from '(?:(?!\) to extension ').)*' \((?:[A-Z]{{2,4}}:)?{PEER}\)"
        r" to extension '(?:(?!\) to extension ').)*' rejected because .*",
    ),
    (
        "", "",
        rf"{_ASTERISK_HEAD} {{0,2}}[\w.-]{{1,64}}: Call \((?:[A-Z]{{2,4}}:)?{PEER}\)"
        r" to extension '(?:(?!\) to extension ').)*' rejected because .*",
    ),
    *(
        (
            # Behind the peer's own answer (Response) an address is no longer the server's word.
            "", result,
            rf'{_ASTERISK_HEAD}SecurityEvent="{event}",EventTV="[^"]{{1,40}}",'
            r'(?:(?!AccountID=)\w{1,32}="[^"]{0,64}",){0,8}AccountID="(?P<user>[^"]{0,255})",'
            r'(?:(?!,(?:Response|Challenge|ReceivedChallenge|ReceivedHash)=").)*,'
            rf'RemoteAddress="IPV[46]/[A-Z]{{2,4}}/{ADDRESS}/{PORT}"(?:(?!,RemoteAddress=").)*',
        )
        for event, result in (
            ("(?:InvalidAccountID|InvalidPassword|ChallengeResponseFailed|FailedACL)", "failure"),
            ("SuccessfulAuth", "success"),
        )
    ),
    ("", "", rf"{_ASTERISK_HEAD}hacking attempt detected '{ADDRESS}'"),
    (
        "", "",
        r"(?:WARNING|NOTICE) ?\[\d{1,10}\](?:\[C-[0-9a-f]{8}\])?:? Ext\. s:(?:\d{1,6} in @"
        rf' [\w-]{{1,64}}:)? "Rejecting unknown SIP connection from {PEER}"',
    ),
)  # fmt: skip

_SOFIA: Final = (
    r"(?:\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{1,9} )?(?:\d{1,3}\.\d\d% )?\[WARN(?:ING)?\]"
    r" (?:\[SOFIA\] \[)?sofia_reg\.c:\d{1,6}\]? "
)
FREESWITCH: Final = make_forms(
    (
        "", "failure",
        rf"{_SOFIA}SIP auth (?:failure|challenge) \([A-Z]{{1,16}}\) on sofia profile '[^']{{1,64}}'"
        rf" for \[(?P<user>[^@\]]{{0,255}})@.*\] from ip {ADDRESS}",
    ),
    (
        "", "failure",
        rf"{_SOFIA}Can't find user \[(?P<user>[^@\]]{{0,255}})@.*\] from {ADDRESS}",
    ),
)  # fmt: skip

MURMUR: Final = make_forms(
    (
        "", "failure",
        rf"(?:<W>\S{{10}} \S{{8,16}} )?\d{{1,6}} => <\d{{1,9}}:(?P<user>.*)\(-?\d{{1,9}}\)> "
        rf"Rejected"
        rf" connection from {ADDRESS}:{PORT}: [A-Za-z ,.]{{1,100}}",
    ),
)  # fmt: skip

HALF_LIFE: Final = make_forms(
    ("Bad Rcon: ", "failure", rf'Bad Rcon: ".*" from "{ADDRESS}:{PORT}"'),
)  # fmt: skip

ZNC: Final = make_forms(
    ("[", "failure", rf"\[(?P<user>.*)\] failed to login from {PEER}"),
)  # fmt: skip

EJABBERD: Final = make_forms(
    (
        "", "failure",
        r"(?:\[info\] |I\()<0\.\d{1,9}\.\d{1,9}>[@:][^\s]{1,64} (?:: )?\([^\s]{1,200}\) Failed "
        r"(?:c2s"
        rf" [A-Z0-9-]{{1,32}} )?authentication for (?P<user>[^\s]{{1,320}}) from (?:IP )?{ADDRESS}"
        r"(?: \(.{1,64}\)|: [A-Za-z ]{1,100})?",
    ),
)  # fmt: skip

#: Program of a syslog line -> its forms.
PROGRAMS: Final[dict[str, Forms]] = {
    "asterisk": ASTERISK,
    "freeswitch": FREESWITCH,
    "murmurd": MURMUR,
    "mumble-server": MURMUR,
    "znc": ZNC,
}
