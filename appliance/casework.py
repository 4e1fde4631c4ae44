"""Behind correlate, beside the line: what operators do with incidents.

Each request is checked and carried out on a `Desk`, the store within one transaction: the change
itself, its entry in the audit log, and what sinks are told of it, all or nothing. The daemon does
it between two turns of the line; without a daemon, the command does it itself.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol, TypeVar

import msgspec

from appliance.audit import Entry, Head
from appliance.correlate.gathering import Gathering, summarize
from appliance.emit.render import render_incident, render_time
from appliance.emit.text import show_surrogates
from appliance.errors import ApplianceError, UsageError
from appliance.incident import Action, Case, Closing
from appliance.refolding import (
    FOLD_FINDINGS,
    Placed,
    fold_findings,
    leave_rest,
    list_keys,
    take_part,
)
from appliance.schema import LEVELS, FoldState, Incident, MessageKind, digest
from appliance.suppression import (
    MOST_ACTIVE,
    Scope,
    Suppression,
    check_end,
    check_reason,
    check_scope,
    describe_suppression,
)

#: Longest note, in bytes of UTF-8, and longest name of an assignee, in characters.
NOTE_BYTES: Final = 4096
MOST_NAME: Final = 128
#: Ids that one request names.
MOST_IDS: Final = 1000


T = TypeVar("T")
#: (pattern of host names, weight).
Assets = Sequence[tuple[str, float]]


class Refused(ApplianceError):
    """What was asked can't be done; the text says why."""


# -- requests --------------------------------------------------------------------------------------


class Ack(msgspec.Struct, frozen=True, tag="ack", tag_field="act"):
    """Somebody looks at it."""

    id: str
    note: str = ""


class Assign(msgspec.Struct, frozen=True, tag="assign", tag_field="act"):
    """It is `to`'s."""

    id: str
    to: str
    note: str = ""


class Close(msgspec.Struct, frozen=True, tag="close", tag_field="act"):
    """It is over, and was `closing`."""

    id: str
    closing: Closing
    note: str


class Reopen(msgspec.Struct, frozen=True, tag="reopen", tag_field="act"):
    """It is not over."""

    id: str
    note: str = ""


class Note(msgspec.Struct, frozen=True, tag="note", tag_field="act"):
    """Something to know about it."""

    id: str
    note: str


class Merge(msgspec.Struct, frozen=True, tag="merge", tag_field="act"):
    """They are one: `into`, or the one that was opened first."""

    ids: tuple[str, ...]
    into: str = ""
    note: str = ""


class Split(msgspec.Struct, frozen=True, tag="split", tag_field="act"):
    """These findings are an incident of their own."""

    id: str
    findings: tuple[str, ...]
    note: str = ""


class Suppress(msgspec.Struct, frozen=True, tag="suppress", tag_field="act"):
    """Findings in the scope are kept from sinks and incidents, until then (epoch seconds)."""

    scope: Scope
    until: float
    because: str


class Unsuppress(msgspec.Struct, frozen=True, tag="unsuppress", tag_field="act"):
    """This suppression holds no longer."""

    number: int


Request = Ack | Assign | Close | Reopen | Note | Merge | Split | Suppress | Unsuppress


def read_request(value: object) -> Request:
    """A request out of JSON values. Raises UsageError."""
    try:
        request: Request = msgspec.convert(value, Request)
    except msgspec.ValidationError as error:
        raise UsageError(f"no request: {error}") from error
    return request


def write_request(request: Request) -> dict[str, Any]:
    """The request as JSON values; texts that no UTF-8 holds are shown with escapes."""
    written: dict[str, Any] = _make_sendable(msgspec.to_builtins(request))
    return written


def _make_sendable(value: Any) -> Any:
    if isinstance(value, str):
        return show_surrogates(value)
    if isinstance(value, dict):
        return {key: _make_sendable(inner) for key, inner in value.items()}
    return [_make_sendable(inner) for inner in value] if isinstance(value, list | tuple) else value


def check_request(request: Request, now: float) -> None:
    """What is wrong with a request by itself, whatever the store holds. Raises UsageError."""
    note = getattr(request, "note", "")
    if len(note.encode("utf-8", "surrogatepass")) > NOTE_BYTES:
        raise UsageError(f"the note is longer than {NOTE_BYTES} bytes")
    match request:
        case Close() | Note() if not note.strip():
            raise UsageError("a note is needed: say why")
        case Assign() if not request.to.strip():
            raise UsageError("--to: name somebody")
        case Assign() if len(request.to) > MOST_NAME:
            raise UsageError(f"--to: is longer than {MOST_NAME} characters")
        case Merge() if not request.ids:
            raise UsageError("name the incidents to merge")
        case Merge() if len(request.ids) > MOST_IDS:
            raise UsageError(f"more than {MOST_IDS} incidents at a time")
        case Split() if not request.findings:
            raise UsageError("name the findings that leave")
        case Split() if len(request.findings) > MOST_IDS:
            raise UsageError(f"more than {MOST_IDS} findings at a time")
        case Suppress():
            check_scope(request.scope)
            check_end(request.until, now)
            check_reason(request.because, "--because")
        case _:
            pass


# -- what it is carried out on ---------------------------------------------------------------------


class Desk(Protocol):
    """The store within one transaction. Every method raises StoreError."""

    def find_incidents(self, prefix: str) -> list[str]:
        """Ids of incidents that start so, those of merged ones led to where they went."""

    def find_findings(self, prefix: str) -> list[tuple[str, str]]:
        """(id, incident) of findings whose ids start so."""

    def incident(self, key: str) -> Incident | None:
        """The incident with this id, unless it was merged."""

    def case(self, key: str) -> Case:
        """Its case."""

    def put_case(self, case: Case) -> None:
        """Keep it."""

    def put_incident(self, incident: Incident) -> None:
        """Keep it, a new one or a changed one."""

    def next_number(self) -> int:
        """The number of the next incident."""

    def states(self, incident: str) -> list[FoldState]:
        """Its folds, by id."""

    def count_findings(self, incident: str) -> int:
        """How many of its findings are stored."""

    def put_states(self, states: Iterable[FoldState]) -> None:
        """Keep the folds, each with its incident."""

    def placed(self, ids: Sequence[str]) -> list[Placed]:
        """Where these findings are, in the order of their times."""

    def rest_of(self, fold: str, without: Sequence[str], limit: int) -> list[Placed]:
        """The other findings of a fold, in the order of their times."""

    def unfolded(self, incident: str, limit: int) -> list[Placed]:
        """Findings of an incident that are in no fold, in the order of their times."""

    def move_findings(self, ids: Sequence[str], incident: str, fold: str | None) -> None:
        """Put findings into another incident, and fold where one is named."""

    def move_all(self, incident: str, into: str) -> None:
        """Merge: findings, folds and links of one are another's, and its id leads there."""

    def seal(self, incident: str) -> None:
        """Close: its folds take no more findings, which go into folds of their own."""

    def move_links(self, keys: Sequence[str], incident: str, into: str) -> None:
        """What these entities led to is another incident now."""

    def head(self) -> Head | None:
        """The audit log's remembered newest entry."""

    def log(self, entry: Entry) -> Action:
        """Write an entry behind the newest, by who asked, now."""

    def tell(self, kind: MessageKind, key: str, body: dict[str, Any]) -> None:
        """Tell the sinks."""

    def suppressions(self) -> list[Suppression]:
        """All that are kept."""

    def add_suppression(self, scope: Scope, until: float, because: str) -> Suppression:
        """Keep a new one, by who asked, from now on."""

    def end_suppression(self, number: int) -> Suppression:
        """It holds no longer, from now on."""


class Outcome(msgspec.Struct):
    """What a request led to. `said` is for people; `moved` says that the correlator has to look
    again at what the store holds, `suppressed` that the suppressions are others."""

    act: str
    said: str
    incidents: list[str] = msgspec.field(default_factory=list)
    actions: list[Action] = msgspec.field(default_factory=list)
    suppression: dict[str, Any] | None = None
    case: Case | None = None
    moved: bool = False
    suppressed: bool = False


def perform(request: Request, desk: Desk, now: float, assets: Assets = ()) -> Outcome:
    """Carry it out. `assets` are (pattern of host names, weight 0..3) as configured. Raises
    UsageError for what makes no sense, Refused for what can't be (nothing is changed then);
    StoreError."""
    check_request(request, now)
    match request:
        case Ack():
            done = _acknowledge(request, desk, now)
        case Assign():
            done = _assign(request, desk, now)
        case Close():
            done = _close(request, desk, now)
        case Reopen():
            done = _reopen(request, desk, now)
        case Note():
            done = _note(request, desk)
        case Merge():
            done = _merge(request, desk, now, assets)
        case Split():
            done = _split(request, desk, now, assets)
        case Suppress():
            done = _suppress(request, desk, now)
        case Unsuppress():
            done = _unsuppress(request, desk, now)
    return done


def find_incident(desk: Desk, text: str) -> Incident:
    """The incident whose id is, or starts with, `text`. Raises Refused."""
    prefix = text.lower()
    found = desk.find_incidents(prefix)
    if not found:
        findings = desk.find_findings(prefix)
        if len(findings) == 1 and findings[0][1]:
            raise Refused(f"{text!r} is a finding, of incident {findings[0][1][:12]}")
        raise Refused(f"no incident has an id that starts with {text[:40]!r}")
    if len(found) > 1:
        told = ", ".join(key[:16] for key in found)
        raise Refused(f"{text!r} fits several: {told}")
    incident = desk.incident(found[0])
    if incident is None:
        raise Refused(f"incident {found[0][:12]} is no longer kept")
    return incident


def _find_open(desk: Desk, text: str) -> tuple[Incident, Case]:
    incident = find_incident(desk, text)
    case = desk.case(incident.id)
    if is_closed(incident, case):
        raise Refused(f"incident {incident.id[:12]} is closed: reopen it first")
    return incident, case


def is_closed(incident: Incident, case: Case) -> bool:
    """Whether it takes nothing more."""
    return incident.status == "closed" or case.status == "closed"


def _refuse_routine(incident: Incident, what: str) -> None:
    if incident.kind == "routine":
        raise Refused(
            f"incident {incident.id[:12]} is the place for what is expected here, and is not {what}"
        )


# -- one incident's case ---------------------------------------------------------------------------


def _acknowledge(request: Ack, desk: Desk, now: float) -> Outcome:
    incident, case = _find_open(desk, request.id)
    if case.status == "acknowledged":
        raise Refused(f"incident {incident.id[:12]} is acknowledged already")
    case = msgspec.structs.replace(case, status="acknowledged", changed=now)
    entry = Entry("ack", incident.id, _with_note(request.note))
    return _settle(desk, incident, case, entry, "acknowledged")


def _assign(request: Assign, desk: Desk, now: float) -> Outcome:
    incident, case = _find_open(desk, request.id)
    before = {"from": case.assignee} if case.assignee else {}
    details = {"to": request.to, **before, **_with_note(request.note)}
    case = msgspec.structs.replace(case, assignee=request.to, changed=now)
    entry = Entry("assign", incident.id, details)
    return _settle(desk, incident, case, entry, f"is {request.to}'s")


def _close(request: Close, desk: Desk, now: float) -> Outcome:
    incident = find_incident(desk, request.id)
    case = desk.case(incident.id)
    if is_closed(incident, case):
        how = f" as {case.closing}" if case.closing else ""
        raise Refused(f"incident {incident.id[:12]} is closed already{how}")
    _refuse_routine(incident, "closed")
    case = msgspec.structs.replace(
        case, status="closed", closing=request.closing, note=request.note, changed=now
    )
    closed = msgspec.structs.replace(incident, status="closed")
    entry = Entry("close", incident.id, {"as": request.closing, "note": request.note})
    desk.put_incident(closed)
    desk.seal(incident.id)
    done = _settle(desk, closed, case, entry, f"closed as {request.closing}")
    done.moved = True
    return done


def _reopen(request: Reopen, desk: Desk, now: float) -> Outcome:
    incident = find_incident(desk, request.id)
    case = desk.case(incident.id)
    if not is_closed(incident, case):
        raise Refused(f"incident {incident.id[:12]} is not closed")
    case = msgspec.structs.replace(case, status="open", closing=None, note="", changed=now)
    opened = msgspec.structs.replace(incident, status="open")
    desk.put_incident(opened)
    entry = Entry("reopen", incident.id, _with_note(request.note))
    done = _settle(desk, opened, case, entry, "open again")
    done.moved = True
    return done


def _note(request: Note, desk: Desk) -> Outcome:
    incident = find_incident(desk, request.id)
    action = _log(desk, "note", incident.id, {"note": request.note})
    return Outcome("note", f"incident {incident.id[:12]}: noted", [incident.id], [action],
                   case=desk.case(incident.id))  # fmt: skip


def _with_note(note: str) -> dict[str, Any]:
    return {"note": note} if note.strip() else {}


def _settle(desk: Desk, incident: Incident, case: Case, entry: Entry, words: str) -> Outcome:
    """The changed case into the store, its entry into the log, the update to the sinks."""
    desk.put_case(case)
    action = _log(desk, entry.action, incident.id, entry.details)
    desk.tell("incident", incident.id, render_case(incident, case))
    said = f"incident {incident.id[:12]}: {words}"
    return Outcome(entry.action, said, [incident.id], [action], case=case)


def _log(desk: Desk, act: str, subject: str, details: dict[str, Any]) -> Action:
    """An entry, and the sinks told of it: its hash outside vouches for the log inside."""
    action = desk.log(Entry(act, subject, details))
    desk.tell("audit", action.hash[:32], render_action(action))
    return action


def render_case(incident: Incident, case: Case, **more: str) -> dict[str, Any]:
    """The incident's message with what operators made of it: `case` has status, assignee, closing,
    note and when it was changed (ISO 8601 UTC)."""
    return {
        **render_incident(incident),
        "case": {
            "status": case.status,
            "assignee": case.assignee,
            "closing": case.closing,
            "note": case.note,
            "changed": render_time(case.changed),
        },
        **more,
    }


def render_action(action: Action) -> dict[str, Any]:
    """An entry of the audit log as the message that sinks get: without its details, which may hold
    what is not for outside, but with the hash that covers them."""
    return {
        "kind": "audit",
        "id": action.hash[:32],
        "time": render_time(action.time),
        "number": action.number,
        "actor": action.actor,
        "action": action.action,
        "subject": action.subject,
        "hash": action.hash,
        "previous": action.previous,
    }


# -- merge and split -------------------------------------------------------------------------------


def _merge(request: Merge, desk: Desk, now: float, assets: Assets) -> Outcome:
    found: dict[str, Incident] = {}
    for text in (*((request.into,) if request.into else ()), *request.ids):
        incident, _ = _find_open(desk, text)
        _refuse_routine(incident, "merged")
        if incident.id in found and not (request.into and incident.id == next(iter(found))):
            raise Refused(f"{text!r} is incident {incident.id[:12]}, which is named already")
        found[incident.id] = incident
    if len(found) < 2:
        raise Refused(f"incident {next(iter(found))[:12]} can't be merged with itself")
    members = list(found.values())
    kept = members[0] if request.into else min(members, key=lambda one: (one.number, one.id))
    others = [one for one in members if one.id != kept.id]
    case = desk.case(kept.id)
    for other in others:
        theirs = desk.case(other.id)
        case = msgspec.structs.replace(case, assignee=case.assignee or theirs.assignee)
    whole = _join(kept, others, assets)
    for other in others:
        desk.move_all(other.id, kept.id)
    desk.put_incident(whole)
    desk.put_case(msgspec.structs.replace(case, changed=now))
    details = {"merged": [one.id for one in others], **_with_note(request.note)}
    actions = [_log(desk, "merge", kept.id, details)]
    for other in others:
        actions.append(_log(desk, "merged", other.id, {"into": kept.id}))
        gone = msgspec.structs.replace(other, status="closed")
        desk.tell("incident", other.id, render_case(gone, Case(other.id), merged_into=kept.id))
    desk.tell("incident", kept.id, render_case(whole, case))
    names = ", ".join(one.id[:12] for one in others)
    said = f"incident {kept.id[:12]}: merged with {names}, now {_count_findings(whole.count)}"
    return Outcome("merge", said, [kept.id], actions, case=case, moved=True)


def _join(kept: Incident, others: Sequence[Incident], assets: Assets) -> Incident:
    """All of them as one."""
    whole = Gathering.resume(kept)
    for other in others:
        whole.merge(Gathering.resume(other))
    summed = whole.sum_up(assets)
    members = (kept, *others)
    gone = {one.id for one in members}
    related = tuple(key for key in summed.related if key not in gone)
    apart = tuple(key for key in summed.apart if key not in gone)
    if all(one.folds for one in members):
        return msgspec.structs.replace(summed, related=related, apart=apart)
    # An earlier version stored no rows: what it said of the incident stays.
    worst = max(members, key=lambda one: LEVELS.index(one.level))
    return msgspec.structs.replace(
        summed,
        level=worst.level,
        title=worst.title,
        kind="incident",
        tactics=_unite(*(one.tactics for one in members)),
        techniques=_unite(*(one.techniques for one in members)),
        related=related,
        apart=apart,
    )


def _split(request: Split, desk: Desk, now: float, assets: Assets) -> Outcome:
    incident, case = _find_open(desk, request.id)
    ids = [_find_finding(desk, text, incident) for text in request.findings]
    chosen = desk.placed(tuple(dict.fromkeys(ids)))
    if len(chosen) >= desk.count_findings(incident.id):
        raise Refused("that is all of its findings that are stored: nothing would be left")
    head = desk.head() or Head()
    key = digest("incident split", incident.id, head.hash, *(one.id for one in chosen))
    moved = _divide(desk, incident, chosen, key)
    stay = [*desk.states(incident.id), *_fold_rest(desk, incident.id)]
    number = desk.next_number()
    fresh = Incident(
        id=key,
        number=number,
        status="open",
        level="informational",
        title="",
        entities=(),
        findings=(),
        count=len(chosen),
        tactics=(),
        first_seen=0.0,
        last_seen=0.0,
    )
    other = (incident.id,)
    fresh = msgspec.structs.replace(summarize(moved, fresh, assets), related=other, apart=other)
    left = msgspec.structs.replace(
        summarize(stay, incident, assets),
        count=max(1, incident.count - fresh.count),
        related=_unite(incident.related, (key,)),
        apart=_unite(incident.apart, (key,)),
    )
    desk.put_incident(left)
    desk.put_incident(fresh)
    _split_links(desk, incident.id, key, stay, moved)
    desk.put_case(msgspec.structs.replace(case, changed=now))
    mine = Case(key, changed=now)
    desk.put_case(mine)
    note = _with_note(request.note)
    findings = [one.id for one in chosen]
    actions = [
        _log(desk, "split", incident.id, {"into": key, "findings": findings, **note}),
        _log(desk, "split_from", key, {"from": incident.id, "findings": findings, **note}),
    ]
    desk.tell("incident", incident.id, render_case(left, case))
    desk.tell("incident", key, render_case(fresh, mine, split_from=incident.id))
    said = (
        f"incident {key[:12]}: new, with {_count_findings(fresh.count)} of {incident.id[:12]}, "
        f"which has {left.count} left"
    )
    return Outcome("split", said, [key, incident.id], actions, case=mine, moved=True)


def _count_findings(count: int) -> str:
    return "1 finding" if count == 1 else f"{count} findings"


def _find_finding(desk: Desk, text: str, incident: Incident) -> str:
    found = desk.find_findings(text.lower())
    if not found:
        raise Refused(f"no finding has an id that starts with {text[:40]!r}")
    if len(found) > 1:
        raise Refused(f"{text!r} fits several: {', '.join(key[:16] for key, _ in found)}")
    key, home = found[0]
    if home != incident.id:
        where = f"is of incident {home[:12]}" if home else "is of no incident"
        raise Refused(f"finding {key[:12]} {where}, not of {incident.id[:12]}")
    return key


def _divide(desk: Desk, incident: Incident, chosen: Sequence[Placed], into: str) -> list[FoldState]:
    """Move the findings; the folds that they are in from now on. A fold all of whose stored
    findings leave goes with them, of another they take a part as a fold of its own."""
    known = {state.id: state for state in desk.states(incident.id)}
    folds: dict[str, list[Placed]] = {}
    for one in chosen:
        folds.setdefault(one.fold if one.fold in known else "", []).append(one)
    moved: list[FoldState] = []
    kept: list[FoldState] = []
    loose = folds.pop("", [])
    for fold, mine in folds.items():
        ids = [one.id for one in mine]
        rest = desk.rest_of(fold, ids, FOLD_FINDINGS)
        if not rest:
            moved.append(msgspec.structs.replace(known[fold], incident=into))
            desk.move_findings(ids, into, None)
            continue
        part = take_part(known[fold], mine, into)
        moved.append(part)
        kept.append(leave_rest(known[fold], rest, part.count))
        desk.move_findings(ids, into, part.id)
    for state in fold_findings(loose, into):
        moved.append(state)
        desk.move_findings(state.findings, into, state.id)
    desk.put_states((*moved, *kept))
    return moved


def _split_links(
    desk: Desk,
    incident: str,
    into: str,
    stay: Sequence[FoldState],
    moved: Sequence[FoldState],
) -> None:
    """Entities that only the leaving findings have lead to the new incident."""
    mine = {key for state in moved for key in list_keys(state)}
    theirs = {key for state in stay for key in list_keys(state)}
    desk.move_links(sorted(mine - theirs), incident, into)


def _fold_rest(desk: Desk, incident: str) -> list[FoldState]:
    """What an earlier version stored without folds, as if it had any."""
    return fold_findings(desk.unfolded(incident, MOST_UNFOLDED), incident)


#: Findings of an incident without folds that are read: no earlier version put more into one.
MOST_UNFOLDED: Final = 5000


def _unite(*parts: Iterable[T]) -> tuple[T, ...]:
    """All of them in order, each once."""
    return tuple(dict.fromkeys(one for part in parts for one in part))


# -- suppressions ----------------------------------------------------------------------------------


def _suppress(request: Suppress, desk: Desk, now: float) -> Outcome:
    active = [row for row in desk.suppressions() if row.holds(now)]
    if len(active) >= MOST_ACTIVE:
        raise Refused(f"{MOST_ACTIVE} suppressions hold already: end some")
    for row in active:
        if row.scope == request.scope:
            raise Refused(f"suppression {row.number} holds for this scope: end it first")
    row = desk.add_suppression(request.scope, request.until, request.because)
    details = {
        "number": row.number,
        "scope": msgspec.to_builtins(row.scope),
        "until": render_time(row.until),
        "because": row.because,
    }
    action = _log(desk, "suppress", f"suppression {row.number}", details)
    said = f"suppression {row.number}: {row.scope.describe()}, until {render_time(row.until)}"
    return Outcome("suppress", said, [], [action], describe_suppression(row, 0), suppressed=True)


def _unsuppress(request: Unsuppress, desk: Desk, now: float) -> Outcome:
    found = next((row for row in desk.suppressions() if row.number == request.number), None)
    if found is None:
        raise Refused(f"there is no suppression {request.number}")
    if not found.holds(now):
        raise Refused(f"suppression {request.number} holds no longer")
    row = desk.end_suppression(request.number)
    details = {"number": row.number, "scope": msgspec.to_builtins(row.scope)}
    action = _log(desk, "unsuppress", f"suppression {row.number}", details)
    said = f"suppression {row.number}: ended"
    return Outcome("unsuppress", said, [], [action], describe_suppression(row, 0), suppressed=True)


def describe_outcome(outcome: Outcome) -> dict[str, Any]:
    """What was done as JSON values: act, said, incidents (ids), case, suppression, entries of the
    audit log (number, action, subject, hash)."""
    return {
        "act": outcome.act,
        "said": outcome.said,
        "incidents": outcome.incidents,
        "case": msgspec.to_builtins(outcome.case) if outcome.case is not None else None,
        "suppression": outcome.suppression,
        "entries": [
            {"number": a.number, "action": a.action, "subject": a.subject, "hash": a.hash}
            for a in outcome.actions
        ],
    }
