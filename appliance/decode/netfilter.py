"""Second station of the line, format `netfilter`: packets that the Linux kernel's LOG target wrote.

iptables, nftables, ufw, firewalld and Shorewall all have it written by the kernel (nf_log_syslog;
iptables-extensions(8) LOG, nft(8) LOG STATEMENT), and ulogd writes the same:

    [12345.678901] [UFW BLOCK] IN=eth0 OUT= MAC=... SRC=203.0.113.9 DST=192.0.2.7 LEN=60 TOS=0x00
        PREC=0x00 TTL=50 ID=1 DF PROTO=TCP SPT=40000 DPT=22 WINDOW=1024 RES=0x00 SYN URGP=0

Fields: timestamp (text; the kernel's own `[seconds]` counts from the boot and is `uptime`), prefix
(the administrator's), the packet's parts under the kernel's names (IN, OUT, MAC, SRC, DST, PROTO,
SPT, DPT...), `flags` (words without a value: DF, SYN, ACK) and `embedded` (the packet that an ICMP
error quotes, which its sender chooses). Of a name that comes twice the first counts, so that
nothing quoted can replace the packet's own.
"""

import re
from typing import Any, Final

from appliance.decode.text import TIME_FORMS
from appliance.decode.utf8 import escape_bytes, has_bad_bytes, read_text, strip_frame
from appliance.errors import DecodeError
from appliance.schema import Decoded, RawRecord

#: nft's longest prefix is 127 characters, that of iptables 29. UniFi's gateways add a description.
_PREFIX: Final = r"[^=]{0,128}?(?:DESCR=\"[^\"]{0,128}\" )?"
_UPTIME: Final = r"\[ {0,8}(?P<uptime>\d{1,10}\.\d{6})\] ?"
_PACKET: Final = (
    r"IN=(?P<IN>\S{0,64}) OUT=(?P<OUT>\S{0,64}) "
    r"(?=(?:[A-Z]{3,8}=\S{0,128} {1,2}){0,4}(?:SRC=[0-9a-fA-F.:]{2,45} |ARP HTYPE=))"
)
_MESSAGE: Final = re.compile(rf"(?:{_UPTIME})?(?P<prefix>{_PREFIX}){_PACKET}")
_LINE: Final = re.compile(
    rf"(?:\[?(?P<timestamp>{'|'.join(TIME_FORMS)})\]? )?"
    r"(?:[A-Za-z0-9][\w.-]{0,254} kernel: )?" + _MESSAGE.pattern
)
#: What a line must look like to be taken for one unasked: the kernel's clock, or a bracketed prefix
#: or none. Other prefixes can be anybody's words.
_LOOK: Final = re.compile(rf"(?:{_UPTIME}{_PREFIX}|\[[A-Za-z][\w .:-]{{0,60}}\] ?|){_PACKET}")
#: The kernel also writes what devices call themselves.
_DEVICES: Final = ("usb ", "hid-", "input: ", "scsi ", "sd ")
_PAIR: Final = re.compile(r"([A-Z]{2,10})=(\S{0,256})")
#: Most words of one line that are looked at; the longest packets have 40.
_MAX_WORDS: Final = 128


def is_netfilter(text: str) -> bool:
    """True for a line of the kernel's packet log without a syslog header."""
    return text.find("IN=", 0, 224) >= 0 and _LOOK.match(text) is not None


def is_packet(message: str) -> bool:
    """True for a kernel message that may hold a packet, which `read_netfilter` tells."""
    return message.find(" OUT=", message.find("IN=", 0, 320), 400) > 0


def decode_netfilter(record: RawRecord) -> Decoded:
    """Read the record as a line of the packet log, with a leading time or none. Raises DecodeError
    when it is none."""
    text = read_text(strip_frame(record.data))
    if repaired := has_bad_bytes(text):
        text = escape_bytes(text)
    match = _LINE.match(text)
    if match is None:
        raise DecodeError("no packet: IN=, OUT= and SRC= are not at their place")
    return Decoded("netfilter", _read_packet(text, match), repaired)


def read_netfilter(message: str) -> dict[str, Any]:
    """The parts of a kernel message that holds a packet. Raises DecodeError for another."""
    match = _MESSAGE.match(message)
    if match is None or match["prefix"].startswith(_DEVICES):
        raise DecodeError("no packet")
    return _read_packet(message, match)


def _read_packet(text: str, match: re.Match[str]) -> dict[str, Any]:
    fields: dict[str, Any] = {
        name: value for name, value in match.groupdict().items() if value is not None
    }
    fields["prefix"] = fields["prefix"].strip()
    own, bracket, quoted = text[match.end() :].partition("[")
    if bracket:
        fields["embedded"] = quoted.rstrip("] ")
    flags = []
    for word in own.split(" ", _MAX_WORDS)[:_MAX_WORDS]:
        if pair := _PAIR.fullmatch(word):
            fields.setdefault(pair[1], pair[2])
        elif word.isascii() and word.isalpha() and word.isupper() and len(word) <= 8:
            flags.append(word)
    if flags:
        fields["flags"] = " ".join(flags)
    fields["message"] = text
    return fields
