"""The `appliance` command: what may be asked, and with which exit code it is answered.

Exit codes are in errors.Exit. Errors go to standard error, one a line, never as a traceback.
"""

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Final

from appliance import __version__
from appliance.emit.text import cap_text, show_hidden
from appliance.errors import ApplianceError, ConfigError, Exit, UsageError
from appliance.schema import LEVELS, RECORD_FORMATS

#: Handlers are named, not imported: `status` should not wait for the rule engine to load.
Handler = tuple[str, str]

#: Most rows that one command lists.
MOST_ROWS: Final = 1_000_000_000
#: Most entries that one search gives; the knowledge base has some thousands.
MOST_ENTRIES: Final = 10_000
#: incident.CaseStatus.
CASE_STATUSES: Final = ("open", "acknowledged", "closed")
#: incident.Closing.
CLOSINGS: Final = ("true_positive", "benign", "false_positive", "test", "duplicate", "unknown")
#: What `kb search --type` takes: knowledge.entries.ENTRY_TYPES, without loading them.
KNOWLEDGE_TYPES: Final = (
    "technique", "tactic", "group", "software", "campaign", "mitigation", "strategy", "analytic",
    "asset", "rule", "binary", "vulnerability", "log_source", "playbook", "note", "incident",
)  # fmt: skip


def count(least: int, most: int) -> Callable[[str], int]:
    """An argparse type: a whole number from `least` to `most`."""

    def read_count(text: str) -> int:
        # Not int() alone, which also takes " 1_0 " and the digits of other scripts.
        value = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not {least} to {most}")
        return value

    return read_count


def build_parser() -> argparse.ArgumentParser:
    """Every command with its options."""
    parser = argparse.ArgumentParser(
        prog="appliance",
        description="Air-gapped security appliance: finds attacks in logs, needs no connection.",
    )
    parser.add_argument("--version", action="version", version=f"appliance {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_line_commands(commands)
    _add_look_commands(commands)
    _add_case_commands(commands)
    _add_hunt_command(commands)
    _add_report_command(commands)
    _add_rules_commands(commands)
    _add_model_commands(commands)
    _add_knowledge_commands(commands)
    _add_care_commands(commands)
    return parser


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    handler: Handler,
    text: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(handler=handler, command=parser.prog.partition(" ")[2])
    return parser


def _group(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, text: str
) -> "argparse._SubParsersAction[argparse.ArgumentParser]":
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    return parser.add_subparsers(metavar="COMMAND", required=True)


def _add_config(parser: argparse.ArgumentParser, *, state: bool = False) -> None:
    parser.add_argument(
        "--config", metavar="FILE", help="configuration (default /etc/appliance/appliance.yaml)"
    )
    if state:
        parser.add_argument("--state", metavar="DIR", help="state directory, instead of its own")


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the facts as JSON")


def _add_line_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    run = _command(commands, "run", ("line", "run"), "run the daemon until it is told to stop")
    _add_config(run)
    scan = _command(
        commands, "scan", ("line", "scan"), "put files through the line once, and say what is found"
    )
    scan.add_argument(
        "paths", nargs="+", metavar="PATH", help="file, folder, or - for standard input"
    )
    scan.add_argument(
        "--rules", action="append", metavar="DIR", help="Sigma rules instead of the default set"
    )
    scan.add_argument("--no-model", action="store_true", help="without encoder and sentinel")
    scan.add_argument(
        "--out", metavar="FILE", help="write the findings there; - is standard output"
    )
    scan.add_argument(
        "--format", choices=("jsonl", "csv", "html", "navigator"), default="jsonl", help="of --out"
    )
    scan.add_argument(
        "--input-format",
        metavar="FORMAT",
        default="auto",
        help="of the records, where their content does not tell: "
        f"{', '.join(RECORD_FORMATS)}, or one that the configuration describes",
    )
    scan.add_argument("--stats", metavar="FILE", help="write figures there as JSON")
    scan.add_argument(
        "--state", metavar="DIR",
        help="keep what is found there (a new or empty folder), for `incidents --state DIR`, "
        "`show`, `explain`, `report`, `hunt`",
    )  # fmt: skip
    scan.add_argument(
        "--fail-on", choices=LEVELS, metavar="LEVEL", help="exit 1 when a finding is at least this"
    )
    scan.add_argument("--quiet", action="store_true", help="no progress, no summary")
    _add_config(scan)
    config = _group(commands, "config", "the configuration")
    check = _command(config, "check", ("line", "check_config"), "say everything wrong with it")
    check.add_argument("path", nargs="?", metavar="FILE")
    _add_config(check)


def _add_look_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    status = _command(commands, "status", ("look", "status"), "show how the appliance is")
    status.add_argument("--rules", action="store_true", help="with every rule's ledger")
    _add_config(status, state=True)
    _add_json(status)
    for name, text in (("findings", "list findings"), ("incidents", "rank incidents")):
        module = "look" if name == "findings" else name
        listing = _command(commands, name, (module, name), text)
        listing.add_argument("--since", metavar="T", help="30m, 2h, 7d, or an ISO 8601 time (UTC)")
        listing.add_argument("--level", choices=LEVELS, help="at least this level")
        if name == "findings":
            listing.add_argument(
                "--suppressed", action="store_true", help="those that the operator suppressed"
            )
        else:
            listing.add_argument(
                "--status", choices=CASE_STATUSES, metavar="S", help="open, acknowledged or closed"
            )
            listing.add_argument(
                "--all", action="store_true", help="with what is expected here, or minor"
            )
        listing.add_argument(
            "--limit", type=count(0, MOST_ROWS), default=1000, metavar="N",
            help="the newest N" if name == "findings" else "the first N",
        )  # fmt: skip
        _add_config(listing, state=True)
        _add_json(listing)
    explain = _command(
        commands, "explain", ("explain", "explain"), "show every step behind a finding or incident"
    )
    explain.add_argument("id", metavar="ID", help="its id, or the beginning of it")
    _add_config(explain, state=True)
    _add_json(explain)
    show = _command(commands, "show", ("incidents", "show"), "show one finding or incident")
    show.add_argument("id", metavar="ID", help="its id, or the beginning of it")
    show.add_argument(
        "--limit", type=count(0, MOST_ROWS), default=1000, metavar="N", help="rows shown"
    )
    _add_config(show, state=True)
    _add_json(show)
    rejected = _command(commands, "rejected", ("look", "rejected"), "list records not readable")
    rejected.add_argument(
        "--limit", type=count(0, MOST_ROWS), default=50, metavar="N", help="the newest N"
    )
    _add_config(rejected, state=True)
    _add_json(rejected)


def _add_report_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    report = _command(
        commands, "report", ("report", "report"),
        "write an incident for people who were not there, or the digest of a shift",
    )  # fmt: skip
    report.add_argument(
        "id", nargs="?", metavar="ID", help="the incident's id, or the beginning of it"
    )
    report.add_argument(
        "--since", metavar="T", help="instead of ID: the digest since then, 8h, 24h, 7d or a time"
    )
    report.add_argument(
        "-o", "--out", metavar="FILE", default="-", help="write it there; - is standard output"
    )
    report.add_argument(
        "--format", choices=("html", "md", "json", "text"),
        help="default: by the ending of FILE, else html (a digest: text, which only it has)",
    )  # fmt: skip
    report.add_argument("--force", action="store_true", help="also over a file that is there")
    _add_config(report, state=True)


def _add_hunt_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    hunt = _command(
        commands, "hunt", ("hunt", "hunt"), "look for something in every archived event"
    )
    hunt.add_argument(
        "query", nargs="*", metavar="TERM",
        help="field=value (* is anything), field~regex, a word, or -TERM; all must be met",
    )  # fmt: skip
    hunt.add_argument("--sigma", metavar="RULE", help="events on which this Sigma rule fires")
    hunt.add_argument(
        "--indicator", metavar="X", help="an address, network, domain, hash, URL or file's name"
    )
    hunt.add_argument("--since", metavar="T", help="30m, 2h, 7d, or an ISO 8601 time (UTC)")
    hunt.add_argument("--until", metavar="T", help="the same; up to now when left out")
    hunt.add_argument(
        "--limit", type=count(1, 1_000_000), default=1000, metavar="N", help="the newest N"
    )
    hunt.add_argument("--archive", metavar="DIR", help="an archive's folder without its store")
    _add_config(hunt, state=True)
    _add_json(hunt)


def _add_rules_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    rules = _group(commands, "rules", "the Sigma rules")
    for name, handler, text in (
        ("check", "check", "load them and say which are refused, and why"),
        ("test", "test", "put the samples beside each rule through the line"),
        ("list", "list_rules", "list the loaded ones"),
    ):
        parser = _command(rules, name, ("rules", handler), text)
        parser.add_argument("rules", nargs="*", metavar="DIR", help="instead of the default set")
        if name == "test":
            _add_trial(parser)
        if name == "check":
            parser.add_argument(
                "--no-config", action="store_true",
                help="leave the system's configuration out: what this version could be fed",
            )  # fmt: skip
        _add_config(parser)
        _add_json(parser)
    for name, text in (
        ("coverage", "say which ATT&CK techniques the rules see: fired, fed, unfed"),
        ("scorecard", "say of each rule what it met and found, from the store"),
    ):
        parser = _command(rules, name, ("rules", name), text)
        parser.add_argument("rules", nargs="*", metavar="DIR", help="instead of the configured")
        if name == "coverage":
            parser.add_argument("-o", "--out", metavar="FILE", help="write a Navigator layer there")
            parser.add_argument(
                "--ics", action="store_true", help="the layer of industrial control systems"
            )
        _add_config(parser, state=True)
        _add_json(parser)


def _add_trial(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--against",
        action="append",
        metavar="LOGS",
        help="try the rules over these files instead, and say which part fails",
    )
    parser.add_argument(
        "--near", type=count(0, 1000), default=3, metavar="N",
        help="near misses told of each rule (default 3)",
    )  # fmt: skip
    parser.add_argument(
        "--input-format", metavar="FORMAT", default="auto", help="of the records of --against"
    )


def _add_model_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    model = _group(commands, "model", "the encoder and the sentinel")
    _add_json(_command(model, "info", ("models", "model_info"), "show what is there, verified"))
    evaluate = _command(
        model, "eval", ("model_eval", "model_eval"), "measure the sentinel on labelled files"
    )
    evaluate.add_argument("path", metavar="PATH", help="the folder of the files")
    evaluate.add_argument(
        "--labels", required=True, metavar="FILE",
        help="CSV or JSON lines of path,label (1 attack, 0 ordinary), or of text,kind,label",
    )  # fmt: skip
    evaluate.add_argument("--model", metavar="FILE", help="GGUF file instead of the one in use")
    _add_json(evaluate)
    _add_build(_command(model, "build", ("models", "model_build"), "build the encoder"))


def _add_build(build: argparse.ArgumentParser) -> None:
    build.add_argument("--to", metavar="DIR", help="data folder to build in")
    build.add_argument("--force", action="store_true", help="also when it is built already")


def _add_knowledge_commands(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    base = _group(commands, "kb", "the knowledge base")
    info = _command(
        base, "info", ("knowledge", "kb_info"), "show its sources, their ages, what it holds"
    )
    _add_config(info)
    _add_json(info)
    build = _command(
        base, "build", ("knowledge", "kb_build"), "build it from packages, our own texts and rules"
    )
    _add_build(build)
    build.add_argument(
        "--without-imports", action="store_true", help="leave out what was imported before"
    )
    bring = _command(
        base, "import", ("knowledge_import", "kb_import"), "bring files into it, as from a stick"
    )
    bring.add_argument(
        "paths", nargs="+", metavar="PATH",
        help="file, folder or archive: STIX 2.1, Sigma, CISA KEV, CVE 5, LOLBAS, GTFOBins, MISP, "
        "Atomic Red Team, Markdown, CSV indicators",
    )  # fmt: skip
    bring.add_argument(
        "--to", metavar="DIR",
        help="data folder whose base takes it, begun from the one in use where it has none",
    )  # fmt: skip
    bring.add_argument(
        "--reload", action="store_true", help="have the running daemon take the new base"
    )
    _add_config(bring)
    _add_json(bring)
    search = _command(base, "search", ("knowledge", "kb_search"), "find entries near to a text")
    search.add_argument("query", metavar="TEXT")
    search.add_argument(
        "--type", choices=KNOWLEDGE_TYPES, metavar="TYPE",
        help=f"only entries of this type: {', '.join(KNOWLEDGE_TYPES)}",
    )  # fmt: skip
    search.add_argument("--platform", metavar="P", help="only for this platform (Windows, Linux)")
    search.add_argument(
        "--tactic", metavar="T", help="only of this tactic (credential-access, TA0006)"
    )
    search.add_argument(
        "-k", type=count(1, MOST_ENTRIES), default=5, metavar="K", help="how many (default 5)"
    )
    _add_config(search)
    _add_json(search)
    show = _command(
        base, "show", ("knowledge_entry", "kb_show"), "show one entry and all that is linked to it"
    )
    show.add_argument("id", metavar="ID", help="T1003.001, G0016, CVE-2021-44228, a name")
    show.add_argument("--all", action="store_true", help="with every neighbour and whole texts")
    _add_config(show, state=True)
    _add_json(show)
    exposed = _command(
        base, "exposure", ("exposure", "exposure"),
        "say which known vulnerabilities the software in the logs has",
    )  # fmt: skip
    exposed.add_argument("--host", metavar="H", help="only what is on this host")
    exposed.add_argument("--all", action="store_true", help="every one, nothing summed up")
    _add_config(exposed, state=True)
    _add_json(exposed)


def _add_care_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    selftest = _command(
        commands, "selftest", ("selftest", "selftest"), "check that every part does its work"
    )
    _add_config(selftest, state=True)
    _add_json(selftest)
    sink = _group(commands, "sink", "the ways out")
    test = _command(sink, "test", ("sinks", "test"), "send a test message through one or all")
    test.add_argument("name", nargs="?", metavar="NAME", help="only this sink")
    _add_config(test)
    _add_json(test)
    store = _group(commands, "store", "the database")
    for name, text in (
        ("info", "show what it holds and whether it is sound"),
        ("vacuum", "give free pages back to the disk (with the daemon stopped)"),
        ("backup", "copy it to FILE, also while the daemon runs"),
        ("restore", "put a backup in its place (with the daemon stopped)"),
    ):
        parser = _command(store, name, ("store", name), text)
        if name in ("backup", "restore"):
            parser.add_argument("file", metavar="FILE", help="the backup")
        if name == "backup":
            parser.add_argument("--force", action="store_true", help="also over a file")
        _add_config(parser, state=True)
        _add_json(parser)
    completion = _command(
        commands, "completion", ("completion", "completion"), "print completions for a shell"
    )
    completion.add_argument("shell", choices=("bash", "zsh", "fish"), metavar="SHELL",
                            help="bash, zsh or fish")  # fmt: skip
    _command(commands, "man", ("manual", "man"), "print the manual page (roff)")


def _add_case_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    for name, text in (
        ("ack", "say that somebody looks at an incident"),
        ("assign", "say whose an incident is"),
        ("close", "say that an incident is over, and what it was"),
        ("reopen", "say that an incident is not over"),
        ("note", "write down something about an incident"),
        ("merge", "make one incident of several"),
        ("split", "put findings of an incident into one of their own"),
    ):
        parser = _command(commands, name, ("casework", name), text)
        if name == "merge":
            parser.add_argument("ids", nargs="+", metavar="ID", help="incidents")
            parser.add_argument(
                "--into", metavar="ID", help="the one that stays (else the one opened first)"
            )
        else:
            parser.add_argument("id", metavar="ID", help="its id, or the beginning of it")
        if name == "split":
            parser.add_argument("findings", nargs="+", metavar="FINDING", help="ids of those")
        if name == "assign":
            parser.add_argument("--to", required=True, metavar="WHO")
        if name == "close":
            parser.add_argument(
                "--as", dest="closing", required=True, choices=CLOSINGS, metavar="WHAT",
                help=", ".join(CLOSINGS),
            )  # fmt: skip
        if name == "note":
            parser.add_argument("text", metavar="TEXT", help="what is to be known")
        else:
            parser.add_argument(
                "--note", metavar="TEXT", default="", required=name == "close", help="why"
            )
        _add_config(parser, state=True)
        _add_json(parser)
    suppress = _command(
        commands, "suppress", ("casework", "suppress"),
        "keep findings of a scope from sinks and incidents for a while",
    )  # fmt: skip
    what = suppress.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--scope", metavar="S",
        help="rule=ID or detector=NAME, and host=, user=, address=, file=, joined by commas",
    )  # fmt: skip
    what.add_argument("--list", action="store_true", help="show those that hold, and that held")
    what.add_argument("--end", type=count(1, MOST_ROWS), metavar="NUMBER", help="end this one")
    suppress.add_argument("--until", metavar="T", help="12h, 7d, 2027-01-31, 2027-01-31T18:00")
    suppress.add_argument("--because", metavar="TEXT", help="why")
    _add_config(suppress, state=True)
    _add_json(suppress)
    audit = _command(commands, "audit", ("casework", "audit"), "show who did what")
    audit.add_argument("id", nargs="?", metavar="ID", help="only of this incident")
    audit.add_argument("--since", metavar="T", help="30m, 2h, 7d, or an ISO 8601 time (UTC)")
    audit.add_argument(
        "--limit", type=count(0, MOST_ROWS), default=1000, metavar="N", help="the newest N"
    )
    audit.add_argument(
        "--verify", action="store_true", help="follow the chain; exit 1 when it is broken"
    )
    _add_config(audit, state=True)
    _add_json(audit)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; give its exit code."""
    _prepare_streams()
    name = "help"
    try:
        try:
            args = build_parser().parse_args(argv)
            name = args.command
            module, function = args.handler
            handlers = import_module(f"appliance.commands.{module}")
            handler: Callable[[argparse.Namespace], Exit] = getattr(handlers, function)
            return int(handler(args))
        finally:
            sys.stdout.flush()  # a full disk is heard of here, not when the interpreter ends
    except ConfigError as error:
        return _fail("configuration", str(error), Exit.BAD_CONFIG)
    except BrokenPipeError:
        # Whoever read our output has gone.
        _drop_output()
        return int(Exit.DONE)
    except ApplianceError as error:
        usage = isinstance(error, UsageError)
        return _fail(name, str(error), Exit.USAGE if usage else Exit.FOUND_OR_FAILED)
    except (OSError, UnicodeError) as error:
        # The doorway of the operating system, for all that no stage could say better.
        _drop_output()
        return _fail(name, _describe_fault(error), Exit.FOUND_OR_FAILED)
    except KeyboardInterrupt:
        return 130


def _prepare_streams() -> None:
    """Standard streams on which printing raises nothing for what is printed, and that are there.

    A stream that was closed before the start (`>&-`) is replaced by one that fails: its number
    must not go to a file opened later, which would then be written to. Standard error, whose
    failure nobody could be told of, becomes the null device.
    """
    # Opened the wrong way round, so that reading or writing fails.
    for number, name, flags, mode in (
        (0, "stdin", os.O_WRONLY, "r"),
        (1, "stdout", os.O_RDONLY, "w"),
        (2, "stderr", os.O_WRONLY, "w"),
    ):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, flags)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # What the terminal's character set lacks is shown as an escape, not as a traceback.
            stream.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """When what is still buffered can't be written, send it nowhere: the interpreter would try
    again at its end, and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _describe_fault(error: OSError | UnicodeError) -> str:
    if not isinstance(error, OSError):
        return str(error)
    reason = error.strerror or str(error) or type(error).__name__
    return reason if error.filename is None else f"{os.fsdecode(error.filename)}: {reason}"


def _fail(what: str, reason: str, code: Exit) -> int:
    with contextlib.suppress(OSError):  # standard error is full or gone: the exit code says it
        for line in reason.splitlines() or ["failed"]:
            shown = show_hidden(cap_text(line, 2000))
            print(f"appliance: {what}: {shown}", file=sys.stderr)  # noqa: T201
        sys.stderr.flush()
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
