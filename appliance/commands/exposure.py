"""`kb exposure`: known vulnerabilities of the software that the site's own logs reveal."""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from appliance.commands.paragraphs import wrap_text
from appliance.commands.settings import open_store, read_config
from appliance.config import Config
from appliance.errors import ApplianceError, Exit, ModelError
from appliance.exposure import LIMITS, Exposed, find_exposure, list_current
from appliance.inventory.seen import Software
from appliance.knowledge.readers.kev import KEV_SOURCE
from appliance.knowledge.vulnerabilities import VulnerabilityBase
from appliance.places import data_folders, find_knowledge
from appliance.view import View, clean, show_time

#: Hosts and vulnerabilities that a line names; --json has all of them.
_MOST_HOSTS: Final = 4
_MOST_IDS: Final = 6
#: Entries that are shown one by one, and products of which no version is told; --all shows all.
_MOST_SHOWN: Final = 50


def exposure(args: argparse.Namespace) -> Exit:
    """`appliance kb exposure`. Exit 1 when there is nothing to answer from: no store, no software
    seen, no base, or no vulnerability in it."""
    config = read_config(args)
    software = _read_software(config, args.host)
    base = _open_base(config)
    try:
        listed = {affected.origin for affected in base.list_affected()}
        if not listed:
            raise ApplianceError(
                "the knowledge base has no vulnerabilities: bring CISA's catalogue or CVE records "
                "with `appliance kb import FILE`"
            )
        found = find_exposure(software, base)
        sources = [
            {"name": name, "version": version, "read_at": read_at}
            for name, version, read_at in base.sources
            if name in listed
        ]
    finally:
        base.close()
    view = View()
    if args.json:
        view.json(_sum_up(software, found, sources))
        return Exit.DONE
    _print_head(view, software, found, sources)
    if KEV_SOURCE not in listed:
        view.line("No KEV catalogue is imported: what is exploited is not known.", "yellow")
    _print_certain(view, [row for row in found if row.affected == "yes"], everything=args.all)
    _print_unknown(view, [row for row in found if row.affected != "yes"], everything=args.all)
    view.line()
    for limit in LIMITS:
        for line in wrap_text(limit, indent="- ", hang="  "):
            view.line(line, "dim")
    return Exit.DONE


def _read_software(config: Config, host: str | None) -> list[Software]:
    """What is there, of one host or of all. Raises ApplianceError when there is nothing."""
    store = open_store(config)
    try:
        software = list_current(store.software(host))
    finally:
        store.close()
    if not software:
        whose = f" of host {clean(host)}" if host is not None else ""
        raise ApplianceError(
            f"no software{whose} was seen: logs of package managers, Sysmon, Windows Installer, "
            "web servers, Zeek or Suricata reveal it"
        )
    return software


def _open_base(config: Config) -> VulnerabilityBase:
    folder = find_knowledge(config.knowledge_dir)
    if folder is None:
        looked = ", ".join(str(data / "knowledge") for data in data_folders())
        raise ModelError(
            f"no knowledge base is built (looked in {looked}): run `appliance kb build`"
        )
    return VulnerabilityBase.open(folder)


def _sum_up(
    software: Sequence[Software], found: Sequence[Exposed], sources: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "hosts": len({row.host for row in software}),
        "software": len({(row.vendor, row.product, row.version) for row in software}),
        "sources": list(sources),
        "exposures": [msgspec.to_builtins(row) for row in found],
        "limits": list(LIMITS),
    }


def _print_head(
    view: View,
    software: Sequence[Software],
    found: Sequence[Exposed],
    sources: Sequence[dict[str, Any]],
) -> None:
    facts = _sum_up(software, found, sources)
    view.line(f"software   {facts['software']} products and versions on {facts['hosts']} hosts")
    for source in sources:
        read_at = f", imported {show_time(source['read_at'])[:10]}" if source["read_at"] else ""
        told = f"{source['name']} {source['version']}".strip() + read_at
        view.line(clean(f"known from {told}", 79))
    certain = {row.id for row in found if row.affected == "yes"}
    unknown = {row.id for row in found} - certain
    exploited = {row.id for row in found if row.exploited}
    view.line(
        f"exposure   {len(certain)} vulnerabilities by version, {len(unknown)} by product alone; "
        f"{len(exploited)} exploited",
        "bold" if certain else "",
    )


def _print_certain(view: View, rows: Sequence[Exposed], *, everything: bool) -> None:
    """One by one, the worst first."""
    if not rows:
        return
    view.line()
    view.line("In a version range that a source states", "bold")
    shown = rows if everything else rows[:_MOST_SHOWN]
    for row in shown:
        said = [row.id, "exploited" if row.exploited else "not known to be exploited"]
        if row.ransomware:
            said.append("used by ransomware")
        if row.due:
            said.append(f"due {row.due}")
        view.line(clean("  ".join(said)), "red" if row.exploited else "yellow")
        for text in (row.title, _describe_software(row), *filter(None, [row.note])):
            for line in wrap_text(clean(text), indent="  ", hang="    "):
                view.line(line)
    if len(shown) < len(rows):
        view.line(f"... and {len(rows) - len(shown)} more: --all")


def _print_unknown(view: View, rows: Sequence[Exposed], *, everything: bool) -> None:
    """By product: most have many, and none says of which version."""
    if not rows:
        return
    products: defaultdict[tuple[str, str, str], list[Exposed]] = defaultdict(list)
    for row in rows:
        products[row.vendor, row.product, row.version].append(row)
    view.line()
    view.line("Of the product, but of which versions is not told or cannot be compared", "bold")
    for place, group in enumerate(products.values()):
        if place == _MOST_SHOWN and not everything:
            view.line(f"... and {len(products) - place} more products: --all")
            return
        for line in wrap_text(clean(_describe_software(group[0])), hang="    "):
            view.line(line)
        ids = [row.id for row in (group if everything else group[:_MOST_IDS])]
        more = f" and {len(group) - len(ids)} more" if len(ids) < len(group) else ""
        ransomware = sum(row.ransomware for row in group)
        told = f"{len(group)} known" + (f", {ransomware} used by ransomware" if ransomware else "")
        text = f"{told}: {', '.join(ids)}{more}"
        for line in wrap_text(clean(text, 100_000), indent="  ", hang="    "):
            view.line(line)


def _describe_software(row: Exposed) -> str:
    """Vendor, product, version, where it is and how that is known."""
    name = row.product
    first = row.vendor.lower().partition(" ")[0]
    if first and not name.lower().startswith(first):
        name = f"{row.vendor} {name}"
    hosts = ", ".join(row.hosts[:_MOST_HOSTS])
    more = f" and {row.host_count - _MOST_HOSTS} more" if row.host_count > _MOST_HOSTS else ""
    return f"{name} {row.version or '(no version)'} on {hosts}{more} ({', '.join(row.how)})"
