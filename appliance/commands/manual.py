"""`man`: the manual page, written in roff (groff_man(7)) from the parser's own tree.

`appliance man > appliance.8`, or `appliance man | man -l -`.
"""

import argparse
import sys
import textwrap
from typing import Final

from appliance import __version__
from appliance.cli import build_parser
from appliance.commands.tree import Command, Option, read_tree
from appliance.config import Config
from appliance.errors import Exit
from appliance.places import CONFIG

#: Longest line of the source, in characters: mandoc's advice.
LINE: Final = 78
#: What each exit code says; every member of Exit stands here.
EXITS: Final[dict[Exit, str]] = {
    Exit.DONE: "Done, and nothing that was asked about is wrong.",
    Exit.FOUND_OR_FAILED: (
        "Something was found (scan --fail-on), a check failed, or the command could not do what it "
        "was told; standard error says why."
    ),
    Exit.USAGE: "The arguments make no sense.",
    Exit.BAD_CONFIG: "The configuration is wrong; every mistake is named with its line.",
    Exit.NOT_RUNNING: "The daemon is not running; what the store knows was shown all the same.",
}

#: What is read from the environment.
ENVIRONMENT: Final[dict[str, str]] = {
    "APPLIANCE_DATA": (
        "Folder that holds models/ and knowledge/; asked before /var/lib/appliance and the "
        "installation's own share/appliance."
    ),
    "NOTIFY_SOCKET": "Where run tells the service manager that it is ready, set by systemd.",
    "WATCHDOG_USEC": "How often run must tell the service manager that it lives, set by systemd.",
    "SUDO_USER": (
        "Who became root to work an incident, set by sudo; the audit log notes it as a claim."
    ),
    "JOURNAL_STREAM": "Says that standard error is the journal, set by systemd.",
}


def list_files() -> dict[str, str]:
    """The files that matter to an operator, by path."""
    config = Config()
    return {
        str(CONFIG): "The configuration, unless --config names another.",
        config.state_dir: "The state directory (state_dir): what only the daemon writes.",
        str(config.store_path): "The store: findings, incidents, positions, what was rejected.",
        str(config.control_path): "Where the running daemon answers its own user and root.",
        str(config.store_path.with_name("lock")): "Held by the daemon while it runs.",
    }


def man(args: argparse.Namespace) -> Exit:
    """`appliance man`."""
    sys.stdout.write(write_manual(read_tree(build_parser())))
    return Exit.DONE


def write_manual(tree: Command) -> str:
    """The page, in ASCII."""
    lines = [
        '.\\" Written by `appliance man`.',
        f'.TH APPLIANCE 8 "" "appliance {__version__}" "System Administration"',
        ".SH NAME",
        "appliance \\- finds attacks in logs on a network with no way out",
        ".SH SYNOPSIS",
        ".B appliance",
        ".I COMMAND",
        ".RI [ option ...]",
        ".SH DESCRIPTION",
        fill(tree.text),
        fill(
            "It reads logs, checks every event against Sigma rules, ties what it finds to ATT&CK, "
            "joins findings into incidents, and tells them by syslog, file and these commands."
        ),
        "It makes no connection that its configuration does not name.",
        ".PP",
        "Every command has",
        f".BR {escape('--help')} ;",
        "those that print facts have",
        f".BR {escape('--json')} .",
        ".SH OPTIONS",
    ]
    for option in tree.options:
        lines += [".TP", _write_option(option), fill(_make_sentence(option.text))]
    lines.append(".SH COMMANDS")
    for command in tree.walk():
        if command.words and not command.commands:
            lines += _write_command(command)
    lines += [".SH EXIT STATUS"]
    for code, text in EXITS.items():
        lines += [".TP", f".B {int(code)}", fill(text)]
    for title, entries in (("ENVIRONMENT", ENVIRONMENT), ("FILES", list_files())):
        lines.append(f".SH {title}")
        for name, text in entries.items():
            lines += [".TP", f".{'I' if title == 'FILES' else 'B'} {escape(name)}", fill(text)]
    lines += [".SH SEE ALSO", ".BR journalctl (1),", ".BR systemd (1),", ".BR rsyslogd (8)"]
    return "\n".join(lines) + "\n"


def _write_command(command: Command) -> list[str]:
    options = [option for option in command.options if "--help" not in option.flags]
    lines = [
        f'.SS "{escape(" ".join(("appliance", *command.words)))}"',
        fill(_make_sentence(command.text)),
        ".PP",
        fill(command.usage),
    ]
    for option in (*command.arguments, *options):
        if option.text or option.flags:
            lines += [".TP", _write_option(option), fill(_make_sentence(option.text))]
    return lines


def _write_option(option: Option) -> str:
    names = ", ".join(f"\\fB{escape(flag)}\\fR" for flag in option.flags)
    value = f"\\fI{escape(option.value)}\\fR" if option.value else ""
    return f"{names} {value}".strip()


def _make_sentence(text: str) -> str:
    words = " ".join(text.split())
    return words[:1].upper() + words[1:] + ("" if words.endswith((".", ")")) else ".")


def escape(text: str) -> str:
    """Text as roff takes it, on one line of ASCII: no request, no escape, hyphens as they are."""
    line = " ".join(text.split()).replace("\\", "\\e").replace("-", "\\-")
    line = line.replace("'", "\\(aq").replace("`", "\\(ga").replace('"', "\\(dq")
    line = "".join(c if c.isascii() else f"\\[u{ord(c):04X}]" for c in line)
    return f"\\&{line}" if line.startswith(".") else line


def fill(text: str) -> str:
    """Escaped text in lines of at most LINE characters, none of which can be a request."""
    lines = textwrap.wrap(escape(text), LINE, break_long_words=False, break_on_hyphens=False)
    return "\n".join(f"\\&{line}" if line.startswith(".") else line for line in lines)
