"""Messages of services and firewalls: each form has a line, and no peer's text forges an address.

The address that counts is always 203.0.113.9; 198.51.100.1 is what a peer would like it to be.
"""

import re
import time
from datetime import UTC, datetime
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.decode import decode
from appliance.normalise import (
    FED,
    applications,
    file_transfer,
    firewalls,
    mail,
    normalise,
    remote,
    services,
    telephony,
)
from appliance.normalise.forms import MAX_MESSAGE, Form, Forms, read_form
from appliance.schema import Cursor, Event, LogSource, RawRecord

#: 2026-03-01 12:00 UTC.
RECEIVED: Final = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()
PEER: Final = "203.0.113.9"
FORGED: Final = "198.51.100.1"


def read(line: str, form: str = "auto") -> Event:
    data = line.encode("utf-8", "surrogateescape")
    cursor = Cursor("test", "x", 0, len(data))
    record = RawRecord(data, "test", "/x.log", "x", cursor, RECEIVED, form)
    return normalise(record, decode(record), zone=UTC).event


def list_values(event: Event, kind: str) -> set[str]:
    return {entity.value for entity in event.entities if entity.kind == kind}


#: Program, message, user and result that it tells; "" for none.
SYSLOG: Final[list[tuple[str, str, str, str]]] = [
    # postfix
    ("postfix/smtpd", "warning: unknown[203.0.113.9]: SASL LOGIN authentication failed: "
     "(reason unavailable), sasl_username=eve", "eve", "failure"),
    ("postfix/submission/smtpd", "warning: a.example[203.0.113.9]:55: SASL PLAIN authentication "
     "failed:", "", "failure"),
    ("postfix/smtpd", "warning: hostname a.example does not resolve to address 203.0.113.9: Name "
     "or service not known", "", ""),
    ("postfix/smtpd", "warning: Connection rate limit exceeded: 31 from a.example[203.0.113.9] for "
     "service smtpd", "", ""),
    ("postfix/smtpd", "improper command pipelining after DATA from unknown[203.0.113.9]: x "
     "from y[198.51.100.1]", "", ""),
    ("postfix/smtpd", "too many errors after RCPT from a.example[203.0.113.9]", "", ""),
    ("postfix/smtpd", "lost connection after CONNECT from a.example[203.0.113.9]", "", ""),
    ("postfix/smtpd", "NOQUEUE: lost connection after CONNECT from a.example[203.0.113.9]", "", ""),
    ("postfix-in/smtpd", "connect from a.example[203.0.113.9]", "", ""),
    ("postfix/smtpd", "disconnect from a.example[203.0.113.9] ehlo=1 auth=0/1 quit=1 commands=2/3",
     "", "failure"),
    ("postfix/smtpd", "disconnect from a.example[203.0.113.9] ehlo=1 quit=1 commands=2", "", ""),
    ("postfix/postscreen", r"PREGREET 14 after 0.08 from [203.0.113.9]:59: EHLO "
     r"a[198.51.100.1]\r\n",
     "", ""),
    ("postfix/postscreen", "HANGUP after 16 from [203.0.113.9]:48 in tests after SMTP handshake",
     "", ""),
    ("postfix/postscreen", "COMMAND TIME LIMIT from [203.0.113.9]:36 after CONNECT", "", ""),
    ("postfix/smtpd", "NOQUEUE: reject: RCPT from a.example[203.0.113.9]: 554 5.7.1 <x@b.example>: "
     "Relay access denied; from=<a from c[198.51.100.1]: 1> to=<x@b.example> proto=SMTP helo=<h>",
     "", ""),
    ("postfix/smtpd", "4Zx9Kq1Jz7z: client=a.example[203.0.113.9], sasl_method=PLAIN, "
     "sasl_username=ann@b.example", "ann@b.example", "success"),
    ("postfix/smtpd", "4Zx9Kq1Jz7z: client=a.example[203.0.113.9]", "", ""),
    # dovecot
    ("dovecot", "imap-login: Disconnected (auth failed, 2 attempts in 9 secs): user=<x>, "
     "method=PLAIN, rip=198.51.100.1, lip=192.0.2.1, session=<a>, method=PLAIN, rip=203.0.113.9, "
     "lip=192.0.2.1, TLS", "x>, method=PLAIN, rip=198.51.100.1, lip=192.0.2.1, session=<a",
     "failure"),
    ("dovecot", "pop3-login: Aborted login (tried to use disallowed plaintext auth): "
     "rip=203.0.113.9, lip=192.0.2.1", "", "failure"),
    ("dovecot", "imap-login: Login: user=<ann>, method=PLAIN, rip=203.0.113.9, lip=192.0.2.1, "
     "mpid=3, TLS", "ann", "success"),
    ("dovecot", "imap-login: Login: user=<ann>, method=PLAIN, rip=203.0.113.9", "ann", ""),
    ("dovecot", "imap-login: Disconnected (no auth attempts in 4 secs): user=<>, rip=203.0.113.9, "
     "lip=192.0.2.1, TLS handshaking: read(size=1) failed", "", ""),
    ("dovecot", "auth-worker(42): sql(eve@b.example,203.0.113.9,<abc>): Password mismatch (given "
     "password: a,198.51.100.1): unknown user)", "eve@b.example", "failure"),
    # exim
    ("exim", "plain_server authenticator failed for h.example (pc) [203.0.113.9]:41 "
     "I=[192.0.2.1]:25: 535 Incorrect authentication data (set_id=eve [198.51.100.1]: 535)",
     "eve [198.51.100.1]: 535", "failure"),
    # sendmail
    ("sendmail", "06I02CNi016764: AUTH failure (LOGIN): authentication failure (-13) SASL(-13): "
     "authentication failure: checkpass failed, user=a, relay=[198.51.100.1], relay=b.example "
     "[203.0.113.9] (may be forged)", "a, relay=[198.51.100.1]", "failure"),
    ("sm-mta", "s1GNXHYB005133: a.example [203.0.113.9]: possible SMTP attack: command=AUTH, "
     "count=5", "", "failure"),
    ("sm-mta", "s1GNXHYB005133: [203.0.113.9]: possible SMTP attack: command=VRFY, "
     "count=5", "", ""),
    ("sendmail", "AUTH=server, relay=a.example [203.0.113.9], authid=ann, mech=LOGIN, bits=0",
     "ann", "success"),
    ("sm-mta", "s1P819mk027713: ruleset=check_rcpt, arg1=<a@b.example>, relay=c.example "
     "[203.0.113.9], reject=550 5.7.1 <a@b.example>... Relaying denied, relay=[198.51.100.1], "
     "reject=x", "", ""),
    ("sm-mta", "s1R9r60D044307: rejecting commands from a.example [203.0.113.9] due to "
     "pre-greeting "
     "traffic after 6 seconds", "", ""),
    ("sm-mta", "s1NKIkZa093301: [203.0.113.9]: EXPN root [198.51.100.1]: EXPN x "
     "[rejected]", "", ""),
    ("sm-mta", "55HIbcGI002794: from=<a, relay=[198.51.100.1]>, size=1, "
     "relay=[203.0.113.9]", "", ""),
    ("sm-mta", "v26LtRA0020949: a.example [203.0.113.9] did not issue MAIL/EXPN/VRFY/ETRN during "
     "connection to MTA", "", ""),
    ("sm-mta", "56VFYCxS024291: lost input channel from a.example [203.0.113.9] to MTA after rcpt",
     "", ""),
    # courier, cyrus, UW
    ("imapd-ssl", "LOGIN FAILED, user=a, ip=[198.51.100.1], ip=[::ffff:203.0.113.9], port=[255]",
     "a, ip=[198.51.100.1]", "failure"),
    ("pop3d", "LOGIN, user=ann, ip=[::ffff:203.0.113.9], port=[33], protocol=POP3", "ann",
     "success"),
    ("courieresmtpd", 'error,relay=::ffff:203.0.113.9,msg="535 Authentication failed.",cmd: AUTH '
     "PLAIN 198.51.100.1", "", "failure"),
    ("courieresmtpd", "error,relay=::ffff:203.0.113.9,from=<a>,to=<b>: 550 User unknown.", "", ""),
    ("cyrus/imap", "badlogin: a.example [203.0.113.9] plaintext eve SASL(-13): authentication "
     "failure: checkpass failed", "eve", "failure"),
    ("sieve", "badlogin: a.example[203.0.113.9] PLAIN authentication failure", "", "failure"),
    ("imaps", "login: a.example [203.0.113.9] ann plaintext+TLS User logged in", "ann", "success"),
    ("imapd", "Login failed user=eve [198.51.100.1] auth=eve host=a.example [203.0.113.9]",
     "eve [198.51.100.1]", "failure"),
    ("imapd", "Login user=ann host=a.example [203.0.113.9]", "ann", "success"),
    ("imapd", "Failed uwmaster override of user=eve  host=a.example [203.0.113.9]", "eve",
     "failure"),
    ("solid-pop3d", "authentication failed: no such user: eve - 198.51.100.1 - 203.0.113.9",
     "eve - 198.51.100.1", "failure"),
    ("solid-pop3d", "root login not allowed - 203.0.113.9", "root", "failure"),
    ("perdition.imaps", 'Auth: 203.0.113.9:22->192.0.2.1:993 client-secure=ssl '
     'authorisation_id=NONE authentication_id="eve" server="x" status="failed: Re-Authentication '
     'Failure"', "eve", "failure"),
    ("perdition.imaps", 'Auth: 203.0.113.9:22->192.0.2.1:993 client-secure=ssl '
     'authorisation_id=NONE authentication_id="ann" server="x" status="ok"', "ann", "success"),
    ("perdition", "Fatal Error reading authentication information from client "
     "203.0.113.9:22->192.0.2.1:993: Exiting child", "", "failure"),
    ("qmail", "1157520813.485077 rblsmtpd: 203.0.113.9 pid 19 x.example: 451 http://y/198.51.100.1",
     "", ""),
    ("qmail", "1157519909.633171 qmail-smtpd: 421 badiprbl: ip 203.0.113.9 rbl: x.example", "", ""),
    ("rblsmtpd", "x.example blocked 203.0.113.9 y.example -", "", ""),
    ("smtpd", "smtp-in: New session 08d856b172f69c5c from host a.example [203.0.113.9]", "", ""),
    # FTP
    ("proftpd", "ftp (a.example[203.0.113.9]): USER eve (198.51.100.1[198.51.100.1]): USER x "
     "(Login "
     "failed): Incorrect password.", "eve (198.51.100.1[198.51.100.1]): USER x", "failure"),
    ("proftpd", "ftp (a.example[203.0.113.9]): USER eve: no such user found from a.example "
     "[198.51.100.1] to 192.0.2.1:21", "eve", "failure"),
    ("proftpd", "ftp (a.example[203.0.113.9]) - SECURITY VIOLATION: Root login attempted", "Root",
     "failure"),
    ("proftpd", "ftp (a.example[203.0.113.9]) - Maximum login attempts (3) exceeded", "",
     "failure"),
    ("proftpd", "ftp (a.example[203.0.113.9]) - USER ann: Login successful.", "ann", "success"),
    ("proftpd", "ftp (a.example[203.0.113.9]) - Connection from a.example [203.0.113.9] denied.",
     "", "failure"),
    ("proftpd", "refused connect from a.example (203.0.113.9)", "", "failure"),
    ("vsftpd", '[eve] FAIL LOGIN: Client "::ffff:203.0.113.9", "Not in the list."', "eve",
     "failure"),
    ("vsftpd", '[ftp] OK LOGIN: Client "203.0.113.9", anon password "a] FAIL LOGIN: Client '
     '"198.51.100.1""', "ftp", "success"),
    ("pure-ftpd", "(?@203.0.113.9) [WARNING] Authentication failed for user [a@198.51.100.1) "
     "[WARNING]]", "a@198.51.100.1) [WARNING]", "failure"),
    ("pure-ftpd", "(?@203.0.113.9) [INFO] ann is now logged in", "ann", "success"),
    ("pure-ftpd", "(?@203.0.113.9) [INFO] New connection from 203.0.113.9", "", ""),
    ("wu-ftpd", "failed login from a.example [203.0.113.9]", "", "failure"),
    ("ftpd", "connection from 203.0.113.9 () at Sun Mar  1 11:00:00 2026", "", ""),
    ("ftpd", "repeated login failures from 203.0.113.9 (a.example)", "", "failure"),
    ("ftpd", "FTP LOGIN FROM a.example [203.0.113.9], ann", "ann", "success"),
    # remote access
    ("dropbear", "Bad password attempt for 'x' from 198.51.100.1:1' from 203.0.113.9:605",
     "x' from 198.51.100.1:1", "failure"),
    ("dropbear", "[825] Mar  1 11:00:00 login attempt for nonexistent user from 203.0.113.9:6", "",
     "failure"),
    ("dropbear", "Exit before auth from <203.0.113.9:52>: (user 'root', 10 fails): Max auth tries "
     "reached - user 'root'", "root", "failure"),
    ("dropbear", "Exit before auth (user 'root', 10 fails): Max auth tries reached - user 'root' "
     "from 203.0.113.9:605", "root", "failure"),
    ("dropbear", "Pubkey auth succeeded for 'ann' with ssh-ed25519 key SHA256:a from "
     "203.0.113.9:605", "ann", "success"),
    ("ovpn-server", "203.0.113.9:644 TLS Auth Error: Auth Username/Password verification failed "
     "for peer", "", "failure"),
    ("openvpn", "203.0.113.9:644 SIGUSR1[soft,connection-reset] received, client-instance "
     "restarting", "", ""),
    ("openvpn", "TLS Error: cannot locate HMAC in incoming packet from [AF_INET]203.0.113.9:553",
     "", "failure"),
    ("xrdp-sesman", "[INFO ] AUTHFAIL: user=a ip=198.51.100.1 time=1\\n[x] AUTHFAIL: user=b "
     "ip=::ffff:203.0.113.9 time=1649352122",
     "a ip=198.51.100.1 time=1\\n[x] AUTHFAIL: user=b", "failure"),
    ("screensharingd", "Authentication: FAILED :: User Name: a :: Viewer Address: 198.51.100.1 :: "
     "Type: DH :: Viewer Address: 203.0.113.9 :: Type: DH",
     "a :: Viewer Address: 198.51.100.1 :: Type: DH", "failure"),
    ("screensharingd", "Authentication: SUCCEEDED :: User Name: ann :: Viewer Address: 203.0.113.9 "
     ":: Type: DH", "ann", "success"),
    ("danted", "info: block(1): tcp/accept ]: 203.0.113.9.5055 0.0.0.0.1080: error after reading "
     "18 "
     'bytes in 0 seconds: system password authentication failed for user "a 198.51.100.1.9 "',
     "a 198.51.100.1.9 ", "failure"),
    ("stunnel", "LOG5[7]: Service [imaps] accepted connection from 203.0.113.9:33", "", ""),
    ("xinetd", "FAIL: telnet address from=203.0.113.9", "", "failure"),
    ("xinetd", "START: telnet pid=3 from=203.0.113.9", "", ""),
    ("nrpe", "Host 203.0.113.9 is not allowed to talk to us!", "", "failure"),
    ("scanlogd", "203.0.113.9 to 192.0.2.1 ports 80, 81, ..., f????uxy, TOS 00 @20:44:43", "", ""),
    ("portsentry", "attackalert: Connect from host: a.example/203.0.113.9 to TCP port: 23", "", ""),
    ("nsd", "info: ratelimit block x.example. type any target 203.0.113.0/24 query 203.0.113.9 "
     "TYPE255", "", ""),
    ("fail2ban.actions", "NOTICE [sshd] Ban 203.0.113.9", "", ""),
    ("slapd", "conn=1022 fd=12 ACCEPT from IP=203.0.113.9:641 (IP=0.0.0.0:389)", "", ""),
    ("rshd", "Connection from 203.0.113.9 on illegal port", "", "failure"),
    ("smbd", "Denied connection from a.example (203.0.113.9)", "", "failure"),
    # telephony and chat
    ("asterisk", "NOTICE[32]: chan_sip.c:23 in handle_request_register: Registration from "
     "'\"x' failed for '198.51.100.1:1' - Wrong password\" <sip:300@b.example>' failed for "
     "'203.0.113.9:36' - Wrong password", "300", "failure"),
    ("asterisk", "NOTICE[1] chan_sip.c: Registration from '<sip:300@b.example>' failed for "
     "'203.0.113.9' - No matching peer found", "300", "failure"),
    ("asterisk", "NOTICE[1] res_pjsip/pjsip_distributor.c: Request 'INVITE' from '<sip:30@b>' "
     "failed for '203.0.113.9:43' (callid: abc) - No matching endpoint found after 5 tries in 2.5 "
     "ms", "30", "failure"),
    ("asterisk", "NOTICE[1] chan_iax2.c: Host 203.0.113.9 failed to authenticate as "
     "'Host 198.51.100.1 failed to authenticate as 'x''",
     "Host 198.51.100.1 failed to authenticate as 'x'", "failure"),
    ("asterisk", "NOTICE[1] manager.c: 203.0.113.9 tried to authenticate with nonexistent user "
     "'eve'", "eve", "failure"),
    ("asterisk", "NOTICE[1] chan_iax2.c: No registration for peer 'a' (from 198.51.100.1)' (from "
     "203.0.113.9)", "a' (from 198.51.100.1)", "failure"),
    ("asterisk", "NOTICE[1][C-00000fa9] chan_sip.c: Call from 'x' (203.0.113.9:108) to extension "
     "'0972' rejected because extension not found in context 'default'.", "", ""),
    ("asterisk", "NOTICE[1] res_pjsip_session.c:  anonymous: Call (UDP:203.0.113.9:65) to "
     "extension "
     "'00' rejected because extension not found in context 'x'.", "", ""),
    ("asterisk", 'SECURITY[1] res_security_log.c: SecurityEvent="InvalidPassword",EventTV="1",'
     'Severity="Error",Service="SIP",EventVersion="2",AccountID="eve",SessionID="",LocalAddress='
     '"IPV4/UDP/192.0.2.1/5060",RemoteAddress="IPV4/UDP/198.51.100.1/1"",LocalAddress='
     '"IPV4/UDP/192.0.2.1/5060",RemoteAddress="IPV4/UDP/203.0.113.9/5084",Challenge="4"', "eve",
     "failure"),
    ("asterisk", 'SECURITY[1] res_security_log.c: SecurityEvent="SuccessfulAuth",EventTV="1",'
     'Severity="Informational",Service="AMI",EventVersion="1",AccountID="ann",SessionID="0x7",'
     'LocalAddress="IPV4/TCP/192.0.2.1/5038",RemoteAddress="IPV4/TCP/203.0.113.9/62",'
     'UsingPassword="1"', "ann", "success"),
    ("asterisk", "NOTICE[3] chan_sip.c: hacking attempt detected '203.0.113.9'", "", ""),
    ("asterisk", 'WARNING[1][C-00000b43]: Ext. s:6 in @ from-sip-external: "Rejecting unknown SIP '
     'connection from 203.0.113.9:52"', "", ""),
    ("freeswitch", "2026-03-01 11:00:00.150982 82.43% [WARNING] sofia_reg.c:1720 SIP auth failure "
     "(INVITE) on sofia profile 'x' for [98@::1] from ip 203.0.113.9", "98", "failure"),
    ("freeswitch", "[WARNING] sofia_reg.c:28 Can't find user [20@a] from 198.51.100.1] from "
     "203.0.113.9", "20", "failure"),
    ("murmurd", "<W>2026-03-01 11:00:00.615 1 => <10:x(-1)> Rejected connection from "
     "198.51.100.1:1: "
     "y(-1)> Rejected connection from 203.0.113.9:31: Invalid server password",
     "x(-1)> Rejected connection from 198.51.100.1:1: y", "failure"),
    ("znc", "[a] failed to login from 198.51.100.1 [b] failed to login from 203.0.113.9:65",
     "a] failed to login from 198.51.100.1 [b", "failure"),
    # applications
    ("mysqld", "260301 11:00:00 [Warning] Access denied for user 'x'@'198.51.100.1'@'203.0.113.9' "
     "(using password: YES)", "x'@'198.51.100.1", "failure"),
    ("mongod", "[conn1] end connection 203.0.113.9:53 (0 connections now open)", "", ""),
    ("mongod", "I NETWORK  [listener] connection accepted from 203.0.113.9:53 #4 (1 connection now "
     "open)", "", ""),
    ("mongod", "I ACCESS   [conn4] SCRAM-SHA-1 authentication failed for eve on admin from client "
     "203.0.113.9:53 ; AuthenticationFailed: x", "eve", "failure"),
    ("Bitwarden-Identity", "[Bit.Core.X] Failed login attempt. 203.0.113.9", "", "failure"),
    ("example.com", "https://example.com|1430068525|user|203.0.113.9|https://example.com/?q=|user|"
     "198.51.100.1||https://example.com/|0||Login attempt failed for eve.", "eve", "failure"),
    ("example.com", "https://example.com|1430068525|page not found|203.0.113.9|https://x|y|0||z",
     "", ""),
    ("Froxlor", "[Login Action 203.0.113.9] Unknown user 'x' tried to login.", "x", "failure"),
    ("froxlor", "froxlor.WARNING: Unknown user tried to login. "
     '{"source":"login","action":"50","user":"203.0.113.9"} []', "", "failure"),
    ("horde", "[imp] FAILED LOGIN for eve [203.0.113.9] to {mx.example:993} [pid 6 on line 139]",
     "eve", "failure"),
    ("monit", "HttpRequest: access denied -- client 203.0.113.9: unknown user 'x'", "x", "failure"),
    ("monit", "HttpRequest: access denied -- client 203.0.113.9: wrong password for user 'x'", "x",
     "failure"),
    ("monit", "Warning: Client '203.0.113.9' supplied wrong password for user 'admin' accessing "
     "monit httpd", "admin", "failure"),
    ("phpMyAdmin", "user denied: root (mysql-denied) from 198.51.100.1 (mysql-denied) from "
     "203.0.113.9", "root (mysql-denied) from 198.51.100.1", "failure"),
    ("phpMyAdmin", "user authenticated: ann from 203.0.113.9", "ann", "success"),
    ("pvedaemon", "authentication failure; rhost=203.0.113.9 user=a rhost=198.51.100.1 user=b "
     "msg=x",
     "a rhost=198.51.100.1 user=b", "failure"),
    ("roundcube", "<crk9n97i> IMAP Error: Login failed for x from 198.51.100.1 from 203.0.113.9. "
     "AUTHENTICATE PLAIN: A0002 NO Login failed. user=x from 198.51.100.1 in /rcube_imap.php",
     "x from 198.51.100.1", "failure"),
    ("roundcube", "FAILED login for eve from 203.0.113.9(X-Real-IP: 198.51.100.1)", "eve",
     "failure"),
    ("roundcube", "<4z506z6r> Successful login for ann (ID: 3) from 203.0.113.9 in session abc",
     "ann", "success"),
    ("sogod", "SOGoRootPage Login from '203.0.113.9, 10.0.0.1' for user 'x' for user 'y' might not "
     "have worked - password policy: 65535", "x' for user 'y", "failure"),
    ("webmin", "Invalid login as x from 198.51.100.1 from 203.0.113.9", "x from 198.51.100.1",
     "failure"),
    ("webmin", "Non-existent login as eve from 203.0.113.9", "eve", "failure"),
    ("webmin", "Successful login as ann from 203.0.113.9", "ann", "success"),
    ("suhosin", "ALERT - ASCII-NUL chars not allowed - dropped variable 'x' (attacker "
     "'198.51.100.1', file 'y')' (attacker '203.0.113.9', file '/cart.php', line 3)", "", ""),
]  # fmt: skip

#: Messages of syslog that name no address.
NO_ADDRESS: Final[list[tuple[str, str, str, str]]] = [
    ("openvpn", "LDAP bind failed: Invalid credentials (80090308)", "", "failure"),
    ("openvpn", 'Incorrect password supplied for LDAP DN "CN=eve,DC=example"', "CN=eve,DC=example",
     "failure"),
    ("slapd", "conn=1022 op=1 RESULT tag=97 err=49 text=", "", "failure"),
    ("slapd", "conn=1022 op=1 RESULT tag=97 err=0 text=", "", "success"),
    ("cimserver", "PGS17200: Authentication failed for user eve.", "eve", "failure"),
    ("doas", "failed auth for eve", "eve", "failure"),
    ("doas", "failed command for eve: ls", "eve", "failure"),
    ("doas", "ann ran command /bin/ksh as root from /home", "ann", "success"),
    ("doas", "ann ran command as www: ls", "ann", "success"),
    ("postgres", '[3-1] FATAL:  password authentication failed for user "eve"', "eve", "failure"),
    ("pvedaemon", "successful auth for user 'ann@pam'", "ann@pam", "success"),
    ("smtpd", 'smtp-in: Failed command on session 1f55bdcdf16e28a3: "AUTH LOGIN" => 535 Failed', "",
     "failure"),
]  # fmt: skip

_T: Final = "2026-03-01 11:00:00"
#: Lines of services' own files: application, line, user, result. All are of 11:00 UTC.
FILES: Final[list[tuple[str, str, str, str]]] = [
    ("asterisk", f"[{_T}] NOTICE[16] chan_iax2.c: Host {PEER} failed to authenticate as 'eve'",
     "eve", "failure"),
    ("freeswitch", f"03-01 11:00:00.026 [WARN] [SOFIA] [sofia_reg.c:41] Can't find user [10@x] "
     f"from "
     f"{PEER}", "10", "failure"),
    ("murmur", f"<W>{_T}.000 1 => <4:eve(-1)> Rejected connection from {PEER}:29: Invalid server "
     "password", "eve", "failure"),
    ("halflife", f'L 03/01/2026 - 11:00:00: Bad Rcon: "rcon 1 "x" from "{FORGED}:1"" from '
     f'"{PEER}:573"', "", "failure"),
    ("ejabberd", f"{_T}.000 [info] <0.66.1>@ejabberd_c2s:x:433 (http_bind|y) Failed c2s PLAIN "
     f"authentication for eve@b.example from ::FFFF:{PEER}: Invalid username or password",
     "eve@b.example", "failure"),
    ("bitwarden", f"{_T}.008 +00:00 [WRN] Failed login attempt, 2FA invalid. "
     f"{PEER}", "", "failure"),
    ("vaultwarden", f"[{_T}.000][vaultwarden::api::identity][ERROR] Username or password is "
     f"incorrect. Try again. IP: {PEER}. Username: x IP: {FORGED}. Username: y.",
     f"x IP: {FORGED}. Username: y", "failure"),
    ("centreon", f"{_T}|-1|0|0|[WEB] [{PEER}] Authentication failed for 'eve' : password mismatch",
     "eve", "failure"),
    ("gitlab", f"2026-03-01T11:00:00.000Z: Failed Login: username=a ip={FORGED} ip={PEER}",
     f"a ip={FORGED}", "failure"),
    ("grafana", 't=2026-03-01T11:00:00+0000 lvl=eror msg="Invalid username or password" '
     f'logger=context userId=0 orgId=0 uname= error="User not found" remote_addr={PEER}', "",
     "failure"),
    ("groupoffice", f'[{_T}]LOGIN FAILED for user: "x" from IP: {FORGED}" from IP: {PEER}',
     f'x" from IP: {FORGED}', "failure"),
    ("horde", f"Mar  1 11:00:00 HORDE [error] [horde] FAILED LOGIN for eve [{PEER}] to Horde [on "
     "line 116]", "eve", "failure"),
    ("monit", f"[UTC Mar  1 11:00:00] error    : Warning: Client '{PEER}' supplied unknown user "
     "'foo' accessing monit httpd", "foo", "failure"),
    ("monitorix", f"Sun Mar  1 11:00:00 2026 - AUTHERR - [{PEER}] Authentication error: /x [y]", "",
     "failure"),
    ("monitorix", f"Sun Mar  1 11:00:00 2026 - NOTEXIST - [{PEER}] File does not "
     f"exist: /x", "", ""),
    ("openwebmail", f"Sun Mar  1 11:00:00 2026 - [72] ({PEER}) eve - login error - no such user - "
     f"loginname=x ({FORGED})", "eve", "failure"),
    ("openwebmail", f"Sun Mar  1 11:00:00 2026 - [72] ({PEER}) ann - login - 3", "ann", "success"),
    ("roundcube", f"[01-Mar-2026 11:00:00 +0000]: <4z506z6r> Failed login for eve from {PEER} in "
     "session 4z506 (error: 0)", "eve", "failure"),
    ("squirrelmail", f"03/01/2026 11:00:00 [LOGIN_ERROR] eve (b.example) from {PEER}: Unknown user "
     "or password incorrect.", "eve", "failure"),
    ("tine20", "78017 00cff -- none -- - 2026-03-01T11:00:00+00:00 WARN (4): "
     f"Tinebase_Controller::login::106 Login with username a from {FORGED} from {PEER} failed "
     "(-1)!", f"a from {FORGED}", "failure"),
    ("directadmin", f"2026:03:01-11:00:00: '{PEER}' 2 failed login attempts. Account 'eve'", "eve",
     "failure"),
    ("directadmin", f"2026:03:01-11:00:00: '{PEER}' successful login to 'ann' after 2 attempts",
     "ann", "success"),
    ("cpanel", f"[{_T} +0000] info [cpsrvd] {PEER} - eve \"POST /login/?x={FORGED} HTTP/1.1\" "
     f"FAILED "
     "LOGIN cpaneld: invalid user", "eve", "failure"),
    ("cpanel", f"[{_T} +0000] info [cpsrvd] {PEER} - ann (possessor: root) - SUCCESS LOGIN cpaneld",
     "ann", "success"),
    ("cpanel", f"[{_T} +0000] info [cpsrvd] {PEER} PURGE root:Nmm4x logout", "root", ""),
    ("mysql", f"260301 11:00:00 [Warning] Access denied for user 'root'@'{PEER}' (using password: "
     "NO)", "root", "failure"),
    ("mssql", f"{_T}.00 Logon       Login failed for user 'x [CLIENT: {FORGED}]'. Reason: Could "
     f"not "
     f"find a login. [CLIENT: {PEER}]", f"x [CLIENT: {FORGED}]", "failure"),
    ("mssql", f"{_T}.00 Logon       Login succeeded for user 'sa'. Connection made using SQL "
     f"Server "
     f"authentication. [CLIENT: {PEER}]", "sa", "success"),
    ("mongodb", f"2026-03-01T11:00:00.000+0000 [conn1] end connection {PEER}:53 (0 connections now "
     "open)", "", ""),
    ("exim", f"{_T} [7] H=(a) [{PEER}]:3755 I=[192.0.2.1]:25 F=<x [{FORGED}] rejected RCPT> "
     f"rejected "
     "RCPT y: relay not permitted", "", ""),
    ("exim", f"{_T} [7] SMTP protocol synchronization error (next input sent too soon): rejected "
     f'"RSET" H=b.example [{PEER}]:58 I=[192.0.2.1]:25 next input="QUIT"', "", ""),
    ("exim", f'{_T} SMTP protocol error in "AUTH X" H=(t) [{FORGED}]" H=(u) [{PEER}] AUTH command '
     "used when not advertised", "", ""),
    ("exim", f"{_T} SMTP call from [{PEER}] dropped: too many unrecognized commands (last was "
     f'"[{FORGED}] dropped: ")', "", ""),
    ("exim", f"{_T} [7] no MAIL in SMTP connection from a.example [{PEER}]:28 I=[192.0.2.1]:25 "
     f"D=21s "
     "C=EHLO", "", ""),
    ("exim", f"{_T} no host name found for IP address {PEER}", "", ""),
    ("exim", f"{_T} no IP address found for host a.example (during SMTP connection from [{PEER}])",
     "", ""),
    ("exim", f"{_T} 1VxHRO-000NiI-Ly SA: Action: silently tossed message: score=31.0 (scanned in "
     f"6/6 "
     f"secs | Message-Id: x). From <(host=a [{FORGED}]) for b> (host=c.example [{PEER}]) for "
     "me@b.example", "", ""),
    ("dovecot", f"Mar  1 11:00:00 auth(eve@b.example,{PEER},sasl:login)<Cv>: Info: sql: Password "
     "mismatch (given password: x)", "eve@b.example", "failure"),
    ("assp", f"Mar-01-26 11:00:00 Blocking {PEER} - too much AUTH errors (8);", "", "failure"),
    ("assp", f"Mar-01-26 11:00:00 m1-13060-05386 [Worker_1] [TLS-out] {PEER} [SMTP Error] 535 "
     f"5.7.8 "
     "Error: authentication failed: x", "", "failure"),
    ("assp", f"Mar-01-26 11:00:00 [SSL-out] {PEER} SSL negotiation with client failed: x", "", ""),
    ("domino", f"01-03-2026 11:00:00   smtp: x [{FORGED}] authentication failure [{PEER}] "
     "authentication failure using internet password", f"x [{FORGED}] authentication failure",
     "failure"),
    ("domino", f"[28325:00010-37355] 01-03-2026 11:00:00   SMTP Server: Authentication failed for "
     f"user eve ; connecting host {PEER}", "eve", "failure"),
    ("domino", f"{_T}   SMTP Server [0D14:0027-1334] Connection from [{PEER}] rejected for policy "
     "reasons.", "", ""),
    ("kerio", f"[01/Mar/2026 11:00:00] Attempt to deliver to unknown recipient <a@b>, from <c@d>, "
     f"IP "
     f"address {PEER}", "", ""),
    ("kerio", f"[01/Mar/2026 11:00:00] SMTP Spam attack detected from {PEER}, client closed "
     "connection", "", ""),
    ("kerio", f"[01/Mar/2026 11:00:00] IP address {PEER} found in DNS blacklist X, mail from "
     f"<a>", "",
     ""),
    ("kerio", f"[01/Mar/2026 11:00:00] Relay attempt from IP address {PEER}, mail from <a> "
     f"rejected",
     "", ""),
    ("kerio", f"[01/Mar/2026 11:00:00] SMTP: User eve doesn't exist. Attempt from IP address "
     f"{PEER}.",
     "eve", "failure"),
    ("kerio", f"[01/Mar/2026 11:00:00] Client with IP address {PEER} has no reverse DNS entry, "
     "connection rejected", "", ""),
    ("kerio", "[01/Mar/2026 11:00:00] Administration login into Web Administration from "
     f"{PEER} failed: IP address not allowed", "", "failure"),
    ("kerio", f"[01/Mar/2026 11:00:00] Message from IP address {PEER}, sender <a> rejected: x", "",
     ""),
    ("kerio", f"[01/Mar/2026 11:00:00] Failed SMTP login from {PEER} with SASL method "
     f"CRAM-MD5.", "",
     "failure"),
    ("oracleims", '<co ts="2026-03-01T11:00:00.00" pi="72aa.17f0.25" sc="tcp_local" dr="+" ac="U" '
     f'tr="TCP|192.0.2.1|25|{PEER}|42" ap="SMTP" mi="Bad password" us="eve" di="535 5.7.8 Bad"/>',
     "eve", "failure"),
    ("softether", f'{_T}.781 Connection "CID-72": User authentication failed. The user name that '
     f'has '
     f'been provided was "x", from {FORGED}.", from {PEER}.', f'x", from {FORGED}.', "failure"),
    ("xrdp", f"[20260301-11:00:00] [INFO ] AUTHFAIL: user=eve ip=::ffff:{PEER} time=16", "eve",
     "failure"),
    ("3proxy", f"01-03-2026 11:00:00 +0000 PROXY.3128 00004 eve {PEER}:28 0.0.0.0:0 0 0 0 GET x",
     "eve", "failure"),
    ("3proxy", f"01-03-2026 11:00:00 +0000 PROXY.3128 00508 ann {PEER}:28 0.0.0.0:0 0 0 0 ", "ann",
     ""),
    ("stunnel", f"2026.03.01 11:00:00 LOG3[28:14]: SSL_accept from {PEER}:33 : 140890C7: error", "",
     ""),
    ("portsentry", f"1772362800 - 03/01/2026 11:00:00 Host: a.example/{PEER} Port: 1 TCP "
     f"Blocked", "",
     ""),
    ("fail2ban", f"{_T},000 fail2ban.actions        [123]: NOTICE  [sendmail] Ban {PEER}", "", ""),
    ("wazuh", f"Sun Mar  1 05:00:00 CST 2026 /var/ossec/active-response/bin/host-deny.sh add - "
     f"{PEER} 1304756247.6 31151", "", ""),
    ("routeros", f"Mar  1 11:00:00 gw system,error,critical login failure for user x from {FORGED} "
     f"via web from {PEER} via ssh", f"x from {FORGED} via web", "failure"),
    ("routeros", f"Mar  1 11:00:00 gw system,info,account user ann logged in from {PEER} via "
     f"winbox",
     "ann", "success"),
    ("znc", f"[{_T}] [eve] failed to login from {PEER}", "eve", "failure"),
]  # fmt: skip

#: Lines in the views of product linux: service, line, user, result.
LINUX_FILES: Final[list[tuple[str, str, str, str]]] = [
    ("syslog", f"[1772362800] nsd[77]: info: axfr for b.example. from client {PEER} refused, no "
     f"acl "
     "matches.", "", "failure"),
    ("vsftpd", f'Sun Mar  1 11:00:00 2026 [pid 27] [eve] FAIL LOGIN: Client "{PEER}"', "eve",
     "failure"),
    ("vsftpd", f'Sun Mar  1 11:00:00 2026 [pid 2] CONNECT: Client "{PEER}"', "", ""),
    ("sshd", f"{_T}.801612+0000  mac sshd[3]: error: PAM: authentication error for eve from {PEER}",
     "eve", "failure"),
    ("syslog", f"{_T},121 ftp proftpd[25] localhost (a[{PEER}]): USER eve: no such user found "
     f"from a "
     f"[{FORGED}] to 192.0.2.1:21", "eve", "failure"),
    ("guacamole", "WARNING: Authentication attempt from 203.0.113.9 for user \"a from "
     "198.51.100.1 for user\" failed.", "a from 198.51.100.1 for user", "failure"),
    ("guacamole", '11:00:00.000 [http-1] INFO  o.a.g.Auth - User "ann" successfully authenticated '
     "from [203.0.113.9, 10.0.0.1].", "ann", "success"),
]  # fmt: skip


def check_event(event: Event, user: str, result: str) -> None:
    for view in event.views:
        assert view.logsource in FED
        assert view.fields.get("src_ip") == PEER
        assert view.fields.get("user", "") == user
        assert view.fields.get("result", "") == result
    assert FORGED not in list_values(event, "address")
    assert PEER in list_values(event, "address")


@pytest.mark.parametrize(("program", "message", "user", "result"), SYSLOG)
def test_syslog_message(program: str, message: str, user: str, result: str) -> None:
    event = read(f"Mar  1 11:00:00 mail {program}[7]: {message}")
    check_event(event, user, result)
    assert (event.host, event.time) == ("mail", RECEIVED - 3600)
    assert event.views[0].fields["message"] == message


@pytest.mark.parametrize(("program", "message", "user", "result"), NO_ADDRESS)
def test_message_without_address(program: str, message: str, user: str, result: str) -> None:
    fields = read(f"Mar  1 11:00:00 mail {program}[7]: {message}").views[0].fields
    assert (fields.get("user", ""), fields["result"], "src_ip" in fields) == (user, result, False)


@pytest.mark.parametrize(("product", "line", "user", "result"), FILES)
def test_line_of_a_services_own_file(product: str, line: str, user: str, result: str) -> None:
    event = read(line)
    assert [view.logsource for view in event.views] == [LogSource(product, "application")]
    check_event(event, user, result)
    assert event.views[0].fields["message"] == line
    assert event.time_known
    assert abs(event.time - (RECEIVED - 3600)) < 1


@pytest.mark.parametrize(("service", "line", "user", "result"), LINUX_FILES)
def test_line_of_a_linux_services_file(service: str, line: str, user: str, result: str) -> None:
    event = read(line)
    assert event.views[0].logsource == LogSource("linux", None, service)
    check_event(event, user, result)


def list_forms() -> list[tuple[str, Forms]]:
    return [
        (f"{module.__name__}.{name}", value)
        for module in (applications, file_transfer, mail, remote, telephony)
        for name, value in vars(module).items()
        if isinstance(value, Forms)
    ]


def find_form(forms: Forms, message: str) -> Form | None:
    """The form that `read_form` takes the message for."""
    for form in forms.forms:
        if message.startswith(form.start) and form.pattern.match(message):
            return form
    return None


def test_every_form_has_a_line() -> None:
    messages = [message for _, message, *_ in (*SYSLOG, *NO_ADDRESS)]
    for _, line, *_ in (*FILES, *LINUX_FILES):
        messages += [line, *(line[start:] for start in range(8, min(60, len(line))))]
    messages += [make_haproxy("401"), make_haproxy("200")]
    checked = 0
    for name, forms in list_forms():
        seen = {id(form) for message in messages if (form := find_form(forms, message))}
        for form in forms.forms:
            assert id(form) in seen, (name, form.start, form.pattern.pattern)
            checked += 1
    assert checked > 150


#: Lines in which the peer's text makes more than one reading: no address is better than its own.
AMBIGUOUS: Final = [
    ("asterisk", "NOTICE[1] res_pjsip/pjsip_distributor.c: Request from '<sip:1@b>' failed for "
     f"'{PEER}:4' (callid: x' failed for '{FORGED}:1' (callid: y) - No matching endpoint found"),
    ("asterisk", f"NOTICE[1] chan_sip.c: Call from 'x' ({FORGED}:1) to extension '1' ({PEER}:2) to "
     "extension '2' rejected because extension not found in context 'default'."),
    ("asterisk", 'SECURITY[1] x.c: SecurityEvent="ChallengeResponseFailed",EventTV="1",'
     'Severity="E",'
     f'AccountID="a",SessionID="b",LocalAddress="c",RemoteAddress="IPV4/UDP/{PEER}/5",'
     f'Challenge="d",'
     f'Response="e",RemoteAddress="IPV4/UDP/{FORGED}/5",ExpectedResponse=""'),
    ("exim", '2026-03-01 11:00:00 SMTP protocol synchronization error (x): rejected "A" H=(a) '
     f'[{FORGED}]:1 I=[192.0.2.1]:25 next input="" H=(b) [{PEER}]:1 I=[192.0.2.1]:25 next '
     'input="c"'),
    ("sm-mta", f"s1P819mk027713: ruleset=check_rcpt, arg1=<a>, relay=[{FORGED}], reject=<b>, "
     f"relay=[{PEER}], reject=c".replace("arg1=<a>", "arg1=<a b>")),
    ("roundcube", f"IMAP Error: Login failed for x from {FORGED}. AUTHENTICATE PLAIN: y from "
     f"{PEER}. "
     f"AUTHENTICATE PLAIN: A0002 NO. user=x from {FORGED}. AUTHENTICATE PLAIN: y in /z"),
    ("daemon", "pam_unix(auth): authentication failure; logname= uid=0 euid=0 tty=ftp ruser= "
     f"rhost={FORGED} user=x rhost={PEER}"),
    ("proftpd", f"ftp (a(b[{FORGED}])[{PEER}]): USER x (Login failed): y"),
    ("dovecot", f"auth-worker(4): sql(a,{FORGED}): unknown user,{PEER}): unknown user x"
     .replace("sql(a", "sql(a)(b")),
]  # fmt: skip


@pytest.mark.parametrize(("program", "message"), AMBIGUOUS)
def test_no_address_of_two_readings(program: str, message: str) -> None:
    event = read(f"Mar  1 11:00:00 mail {program}[7]: {message}")
    assert "src_ip" not in event.views[0].fields
    assert list_values(event, "address") == set()


def test_syslog_that_is_called_text_stays_text() -> None:
    line = f"Mar  1 11:00:00 h sshd[1]: Failed password for x from {PEER} port 1 ssh2"
    assert read(line).mapped
    assert not read(line, "text").mapped
    # A program in brackets is no syslog, but what metalog writes.
    event = read(f"Mar  1 11:00:00 [sshd] Failed password for x from {PEER} port 1 ssh2")
    check_event(event, "x", "failure")


def test_message_in_another_programs_words_is_not_believed() -> None:
    event = read(f"Mar  1 11:00:00 mail app[7]: LOGIN FAILED, user=x, ip=[{FORGED}]")
    assert "src_ip" not in event.views[0].fields


@pytest.mark.parametrize(
    "line",
    [
        # What a client asked of a web server stands in quotation marks.
        f'192.0.2.7 - - [01/Mar/2026:11:00:00 +0000] "Failed Login: username=x ip={FORGED}',
        f"2026-03-01 11:00:00 app: x Failed Login: username=a ip={FORGED}",
        f"2026-03-01 11:00:00 INFO sshd[1]: Failed password for x from {FORGED} port 1 ssh2",
        f"2026-03-01 11:00:00 h app[1]: Failed password for x from {FORGED} port 1 ssh2",
        f"app said: {_T} h sshd[1]: Failed password for x from {FORGED} port 1 ssh2",
    ],
)
def test_text_that_only_looks_like_a_service(line: str) -> None:
    event = read(line)
    assert FORGED not in list_values(event, "address")
    assert not any(view.logsource.product == "linux" for view in event.views)


def make_haproxy(status: str) -> str:
    return (
        f"{PEER}:58 [01/Mar/2026:11:00:00.608] main main/<NOSRV> -1/-1/-1/-1/0 {status} 248 - - "
        f'PR-- 0/0/0/0/0 0/0 "GET /{FORGED}:1 HTTP/1.1"'
    )


def test_haproxy_refusal() -> None:
    refused = read_form(applications.HAPROXY, make_haproxy("401"))
    assert refused == {"src_ip": PEER, "src_port": "58", "result": "failure"}
    assert read_form(applications.HAPROXY, make_haproxy("200")) == {
        "src_ip": PEER,
        "src_port": "58",
    }


def test_cowrie_and_nextcloud() -> None:
    event = read(
        '{"eventid":"cowrie.login.failed","username":"root","password":"x","src_ip":"203.0.113.9",'
        '"timestamp":"2026-03-01T11:00:00Z","sensor":"pot1","session":"a"}'
    )
    check_event(event, "root", "failure")
    assert (event.host, event.time) == ("pot1", RECEIVED - 3600)
    event = read(
        '{"reqId":"a","level":2,"time":"March 1, 2026 11:00:00","remoteAddr":"127.0.0.1",'
        '"user":"--",'
        '"app":"core","message":"Login failed: \'x\' (Remote IP: \'198.51.100.1\')\' (Remote IP: '
        "'203.0.113.9')\"}"
    )
    assert event.views[0].fields["result"] == "failure"
    event = read(
        '{"reqId":"a","level":2,"time":"March 1, 2026 11:00:00","remoteAddr":"203.0.113.9",'
        '"user":"ann","app":"admin_audit","message":"Login successful: \\"ann\\""}'
    )
    check_event(event, "ann", "success")
    assert event.time == RECEIVED - 3600


# Firewalls ---------------------------------------------------------------------------------

ASA: Final = firewalls.ASA
FIREWALLS: Final[list[tuple[LogSource, str, dict[str, Any]]]] = [
    (ASA, f"%ASA-2-106001: Inbound TCP connection denied from {PEER}/54 to 192.0.2.1/14 flags SYN "
     f"on "
     "interface outside", {"src_port": "54", "dst_ip": "192.0.2.1", "action": "deny"}),
    (ASA, f"Mar  1 11:00:00 fw1 : %ASA-6-302013: Built outbound TCP connection 9 for "
     f"outside:{PEER}/22 "
     f"({PEER}/22) to inside:192.0.2.1/53 (192.0.2.1/53)", {"dst_port": "53", "action": "allow"}),
    (ASA, f"%ASA-4-106023: Deny tcp src in:{PEER}/21 dst out:192.0.2.1/139 by access-group \"x\"",
     {"dst_port": "139"}),
    (ASA, f"%ASA-4-209005: Discard IP fragment set with more than 24 elements:  src = {PEER}, "
     f"dest = "
     "192.0.2.1, proto = UDP, id = 4", {"dst_ip": "192.0.2.1"}),
    (ASA, f"%ASA-4-401004: Shunned packet: {PEER} ==> 192.0.2.1 on interface x", {}),
    (ASA, f"%ASA-5-304001: {PEER} Accessed URL 192.0.2.1:http://x from {FORGED}/1 to 192.0.2.2/1",
     {}),
    (ASA, f"%ASA-5-304002: Access denied URL http://x SRC {PEER} DEST 192.0.2.1 on "
     f"interface in", {}),
    (ASA, f"%ASA-5-111010: User 'ann', running 'CLI' from IP {PEER}, executed "
     f"'x'", {"user": "ann"}),
    (ASA, f"%ASA-6-113005: AAA user authentication Rejected: reason = x: server = 192.0.2.1, "
     f"User = "
     f"a: user IP = {FORGED}: user IP = {PEER}", {"result": "failure"}),
    (ASA, f"%ASA-6-308001: console enable password incorrect for 3 tries (from {PEER})",
     {"result": "failure"}),
    (ASA, f"%ASA-5-111005: {PEER} end configuration: OK", {}),
    (ASA, f"%ASA-4-405001: Received ARP response collision from {PEER}/202d.07fc.5c1a on "
     f"interface x",
     {}),
    (ASA, f"%ASA-6-603109: Teardown PPPOE Tunnel at x, tunnel-id = 1, remote-peer = {PEER}", {}),
    (ASA, f"%ASA-7-609001: Built local-host out:{PEER}", {}),
    (ASA, f"%ASA-6-605005: Login permitted from {PEER}/11 to out:192.0.2.1/ssh for user \"ann\"",
     {"user": "ann", "result": "success"}),
    (firewalls.IOS, f"Mar  1 11:00:00 192.0.2.9 %SEC-6-IPACCESSLOGP: list 102 denied tcp "
     f"{PEER}(30) "
     "-> 192.0.2.1(139), 1 packet", {"action": "denied", "dst_port": "139"}),
    (firewalls.IOS, f"<189>Mar  1 11:00:00 r1 12: %SEC_LOGIN-4-LOGIN_FAILED: Login failed [user: "
     f"x] "
     f"[Source: {FORGED}] [localport: 1] [user: y] [Source: {PEER}] [localport: 22] [Reason: z]",
     {"result": "failure"}),
    (firewalls.SCREENOS, "Mar  1 11:00:00 gw ssg5: NetScreen device_id=ssg5  "
     "[Root]system-emergency-"
     f"00005: SYN flood! From {PEER}:41 to 192.0.2.1:96, proto TCP (zone x)", {"dst_port": "96"}),
    (firewalls.SONICWALL, 'id=fw sn=C0EAE4599999 time="2026-03-01 11:00:00 UTC" fw=192.0.2.9 pri=1 '
     f'm=30 msg="Administrator login denied due to bad credentials" n=7 src={PEER}:36:WAN '
     f'dst=192.0.2.1:50:WAN usr="a" note="src={FORGED}"', {"result": "failure", "user": "a"}),
    (ASA, f"%ASA-6-302014: Teardown TCP connection 42 for out:{PEER}/53 to in:192.0.2.1/10 "
     f"duration "
     "0:00:00 bytes 5", {"dst_ip": "192.0.2.1"}),
    (ASA, f"%ASA-6-109005: Authentication succeeded for user 'x' from {FORGED}/1 to 192.0.2.1/2 on "
     f"interface i' from {PEER}/1 to 192.0.2.1/2 on interface in",
     {"user": f"x' from {FORGED}/1 to 192.0.2.1/2 on interface i", "result": "success"}),
    (ASA, f"%ASA-4-716039: Group <g> User <x> IP <{FORGED}> Authentication: successful> IP "
     f"<{PEER}> "
     "Authentication: rejected, Session Type: WebVPN.", {"result": "failure"}),
    (firewalls.IOS, "Mar  1 11:00:00 192.0.2.9 %IPS-4-SIGNATURE: Sig:3051 Subsig:1 Sev:4 DoS "
     f"[{PEER}:51 -> 192.0.2.1:44]", {"dst_port": "44"}),
    (firewalls.IOS, "<189>Mar  1 11:00:00 r1 12: %SEC_LOGIN-5-LOGIN_SUCCESS: Login Success [user: "
     f"ann] [Source: {PEER}] [localport: 22] at 11:00:00", {"result": "success", "user": "ann"}),
    (firewalls.SCREENOS, "Mar  1 11:00:00 gw ssg5: NetScreen device_id=x  "
     "[Root]system-notification-"
     f"00018: Policy (5) was modified by ns via web from host {PEER} to 192.0.2.1:443.",
     {"dst_port": "443"}),
    (firewalls.SCREENOS, "Mar  1 11:00:00 gw ssg5: NetScreen device_id=x  "
     "[Root]system-warning-00515"
     f": Management session via SSH from {PEER}:7 for admin ann has timed out", {"user": "ann"}),
    (firewalls.JUNOS, "Mar  1 11:00:00 gw junos-flow: 2026-03-01T11:00:00.803Z srx RT_FLOW - "
     f'RT_FLOW_SESSION_DENY [junos@2636.1 source-address="{PEER}" source-port="10" '
     f'destination-address="192.0.2.1" destination-port="80" x=" source-address="{FORGED}""]',
     {"action": "deny", "dst_port": "80"}),
    (firewalls.CHECKPOINT, '1 2026-03-01T11:00:00Z fw CheckPoint 19 - [action:"Drop"; '
     f'resource:"a\\"; src:\\"198.51.100.1"; time:"1772362800"; dst:"192.0.2.1"; s_port:"5"; '
     f'service:"22"; src:"{PEER}"; user:"a"; '
     f'url:"x; src:{FORGED}"; ]', {"action": "Drop", "dst_port": "22", "user": "a"}),
]  # fmt: skip


@pytest.mark.parametrize(("source", "line", "expected"), FIREWALLS)
def test_firewall_message(source: LogSource, line: str, expected: dict[str, Any]) -> None:
    event = read(line)
    assert [view.logsource for view in event.views] == [source]
    fields = event.views[0].fields
    assert fields["src_ip"] == PEER
    assert {name: fields.get(name) for name in expected} == expected
    assert PEER in list_values(event, "address")
    assert FORGED not in list_values(event, "address")


def test_every_firewall_form_has_a_line() -> None:
    messages = [re.split(r"%\S+ |\d{5}: ", line, maxsplit=1)[-1] for _, line, _ in FIREWALLS]
    forms = (*firewalls._ASA_OWN, *firewalls._ASA_ENDS, *firewalls._IOS, *firewalls._SCREENOS)
    for form in forms:
        assert any(form.match(message) for message in messages), form.pattern


@pytest.mark.parametrize(
    ("message", "user"),
    [
        ("502103: User priv level changed: Uname: ann From: 1 To: 15", "ann"),
        ("111008: User 'ann' executed the 'x from 198.51.100.1 to 198.51.100.1' command.", "ann"),
        ("111009: User ann executed cmd:x from 198.51.100.1 to 198.51.100.1", "ann"),
        ("113006: User ann locked out on exceeding 3 attempts", "ann"),
        ("113004: AAA user x Successful: server = 192.0.2.1, User = ann", "ann"),
        ("409023: Attempting AAA Fallback for Authentication request for user ann : x", "ann"),
    ],
)
def test_asa_message_of_a_user(message: str, user: str) -> None:
    fields = read(f"%ASA-5-{message}").views[0].fields
    assert (fields["user"], "src_ip" in fields) == (user, False)


def test_firewalls_name_their_host() -> None:
    line = "%SEC-6-IPACCESSLOGP: list 1 denied tcp 192.0.2.1(1) -> 192.0.2.2(2), 1 packet"
    assert read(f"Mar  1 11:00:00 r1 {line}").host == "r1"


@pytest.mark.parametrize("program", ["sudo", "sshd"])
def test_program_of_the_host_is_no_firewall(program: str) -> None:
    event = read(
        f"Mar  1 11:00:00 h {program}: %ASA-6-605005: Login permitted from {FORGED}/1 to x"
    )
    assert {view.logsource.product for view in event.views} == {"linux"}


# Hostile text ------------------------------------------------------------------------------

HOSTILE: Final = (
    "x from 1.1.1.1 ", "' failed for '", "[1.1.1.1]", ": user IP = ", "user=<", ", user=",
    ", relay=[", '" H=', " rhost=", 'a="', "(", " - ", "src:\"", "1", ":", ",RemoteAddress=\"",
    ") to extension '",
)  # fmt: skip


@pytest.mark.parametrize("part", HOSTILE)
def test_long_hostile_message_is_read_in_time(part: str) -> None:
    starts = {
        (program, start) for program, forms in services.PROGRAMS.items() for start in forms.starts
    }
    begin = time.perf_counter()
    for program, start in sorted(starts):
        text = (start + part * MAX_MESSAGE)[: MAX_MESSAGE - 8]
        services.read_message(program, text)
    for _, line, *_ in FILES:
        read((line[:40] + part * MAX_MESSAGE)[: MAX_MESSAGE - 8], "text")
    for _, line, _ in FIREWALLS:
        read((line[:60] + part * MAX_MESSAGE)[: MAX_MESSAGE - 8], "text")
    assert time.perf_counter() - begin < 6
    begin = time.perf_counter()
    for line in (*(row[1] for row in FILES), *(row[1] for row in FIREWALLS)):
        read(line[:60] + part * (100_000 // len(part)), "text")
    assert time.perf_counter() - begin < 3


@given(
    st.sampled_from([*(row[1] for row in FILES), *(row[1] for row in FIREWALLS)]),
    st.text(max_size=40).filter(str.isprintable),
    st.binary(max_size=2),
)
def test_cut_and_broken_lines_raise_nothing(line: str, tail: str, bad: bytes) -> None:
    data, junk = line.encode(), tail.encode() + bad
    for cut in (len(data) // 3, len(data) // 2, len(data)):
        text = (data[:cut] + junk).decode("utf-8", "surrogateescape")
        assert read(text, "text").views
