"""What `show`, `explain` and `report` of an incident begin with: its dossier, from what is there.

Rules, knowledge base and archive each add to it and none is needed: what can't be opened is said on
standard error and left out, and the dossier itself says what it did not have.
"""

import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from appliance.archive.reader import Archive
from appliance.archiving import build_read, open_archive
from appliance.assembly import load_configured_rules
from appliance.commands.knowledge import open_unasked
from appliance.config import Config
from appliance.correlate.chain import build_chain
from appliance.dossier import Link, Watchers, build_dossier, no_damage
from appliance.errors import ApplianceError, ArchiveError, ModelError
from appliance.incident import Chain, Dossier
from appliance.knowledge.base import KnowledgeBase
from appliance.knowledge.procedures import Procedures
from appliance.places import find_knowledge
from appliance.schema import Event, Incident, RawRecord, RuleInfo
from appliance.store import Store
from appliance.view import clean
from appliance.visibility import Presence


def read_dossier(config: Config, store: Store, key: str) -> Dossier:
    """The dossier of the incident with this full id. Raises ApplianceError when it is no longer
    kept, StoreError."""
    with ExitStack() as stack:
        base = _open_base(config, stack)
        archive = _open_archive(config, store, stack)
        return build_dossier(
            store,
            key,
            archive=archive,
            damage=(lambda: archive.damage) if archive is not None else no_damage,
            base=base,
            rules=_load_rules(config),
            now=time.time(),
            config=config,
            read=build_read(config),
            cases=store,
            link=_make_link(base),
        )


def _make_link(base: KnowledgeBase | None) -> Link:
    """The attack chain's maker: with what the base counts, where it can be read."""
    procedures = None if base is None else Procedures(base)

    def link(
        incident: Incident, bodies: Sequence[dict[str, Any]], presence: Presence, watchers: Watchers
    ) -> Chain:
        try:
            return build_chain(incident, bodies, presence, procedures, watchers)
        except ModelError as error:
            _say("what usually comes next is left out", error)
            return build_chain(incident, bodies, presence, None, watchers)

    return link


class _Careful:
    """The archive, of which parts may be damaged: that is said once, and the rest told."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._said = ""

    @property
    def damage(self) -> str:
        """Why a part of it was left out so far; empty where nothing was."""
        return self._said or next(iter(self._archive.damaged), "")

    def events(
        self,
        *,
        hosts: Collection[str] | None,
        since: float,
        until: float,
        kinds: Collection[str] | None = None,
        limit: int,
    ) -> Iterator[Event]:
        try:
            yield from self._archive.events(
                hosts=hosts, since=since, until=until, kinds=kinds, limit=limit
            )
        except ArchiveError as error:
            self._note(error)

    def records(
        self, ids: Collection[str], *, since: float | None = None, until: float | None = None
    ) -> Mapping[str, RawRecord]:
        try:
            return self._archive.records(ids, since=since, until=until)
        except ArchiveError as error:
            self._note(error)
            return {}

    def presence(
        self, hosts: Collection[str] | None, since: float, until: float, step: float
    ) -> Sequence[tuple[str, str, float, int]]:
        try:
            return self._archive.presence(hosts, since, until, step)
        except ArchiveError as error:
            self._note(error)
            return ()

    def _note(self, error: ArchiveError) -> None:
        if not self._said:
            _say("of the archive a part is left out", error)
        self._said = self._said or str(error)


def _open_archive(config: Config, store: Store, stack: ExitStack) -> "_Careful | None":
    try:
        archive = open_archive(config, store)
    except ApplianceError as error:
        _say("the archive is left out", error)
        return None
    if archive is None:
        return None
    stack.callback(archive.close)
    return _Careful(archive)


def _open_base(config: Config, stack: ExitStack) -> KnowledgeBase | None:
    folder = find_knowledge(config.knowledge_dir)
    if folder is None or not Path(folder).is_dir():
        return None
    try:
        return stack.enter_context(open_unasked(folder))
    except ApplianceError as error:
        _say("the knowledge base is left out", error)
        return None


def _load_rules(config: Config) -> Sequence[RuleInfo]:
    try:
        return load_configured_rules(config).infos
    except (ApplianceError, OSError) as error:
        _say("the rules are left out", error)
        return ()


def _say(what: str, error: Exception) -> None:
    print(f"appliance: {what}: {clean(error, 2000)}", file=sys.stderr)  # noqa: T201
