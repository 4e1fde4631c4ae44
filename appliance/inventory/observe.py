"""Inventory, beside the detectors: one event in, the software that it reveals out.

Stateless but for what makes it cheap: most events are dispatched to nothing by their log source and
event id, and what a text says is remembered. What was seen is kept until `take`, once a batch, so
that work that is done again gives the same.

Where nothing names the host, it is the log ("log:" and the stream's name). A user agent and an SSH
client are software of their address, and are only taken where that address is private
(`ipaddress`: RFC 1918, RFC 4193 and the other ranges that are no part of the Internet): whoever
comes from outside is no part of the site.
"""

import ipaddress
import math
import re
from collections.abc import Callable, Mapping
from datetime import datetime, tzinfo
from typing import Any, Final, TypeVar

from appliance.inventory.banners import (
    STARTING,
    read_agent,
    read_named,
    read_server,
    read_ssh,
    read_start,
    read_zeek_software,
)
from appliance.inventory.packages import (
    MAX_LINE,
    PackageReader,
    find_file_reader,
    read_apt,
    read_rpm,
    split_rpm,
)
from appliance.inventory.seen import MAX_HOST, MAX_VERSION, Product, Sight, clean_name
from appliance.inventory.windows import MSI_IDS, read_boot, read_installer, read_resource
from appliance.schema import Fields, RawRecord, Sighting

#: Texts, streams and addresses whose meaning is remembered, each; begun anew when full.
MAX_REMEMBERED: Final = 8_192
#: Longest text that is remembered, in characters; a longer one is read each time.
MAX_REMEMBERED_TEXT: Final = 1_024
#: Different sights that one batch gives; what is beyond is counted.
MAX_SIGHTS: Final = 20_000

_SYSMON_IDS: Final = frozenset({1, 6, 7, 29})
_WINDOWS_IDS: Final = _SYSMON_IDS | MSI_IDS | {6009}
_PACKAGERS: Final = frozenset({"yum", "dnf", "dnf5", "packagekitd"})
#: Stands for the program of auditd's records, which name none.
_NO_PROGRAM: Final = "-"
_TELLING: Final = STARTING | _PACKAGERS | {_NO_PROGRAM}
#: Fields that hold a user agent or a Server header, and whose it is.
_AGENT_FIELDS: Final = ("cs-user-agent", "c-useragent")
_SERVER_FIELDS: Final = ("http.server", "server_header", "sc-server")

#: First numbers of IPv4 addresses under which none is private.
_PUBLIC: Final = frozenset(map(str, range(1, 224))).difference(
    ("10", "127", "169", "172", "192", "198", "203")
)

T = TypeVar("T")
#: host, vendor, product, version, how, installed, gone
_Key = tuple[str, str, str, str, str, bool, bool]
#: What rotation puts behind the name of a log, and the generation of a stream.
_ROTATED: Final = re.compile(r"(?:#\d+|\.\d{1,3}|-\d{8}|\.(?:gz|xz|bz2|zst))+\Z")


class Inventory:
    """Looks events over for software. Not for use by several threads at once; raises nothing."""

    def __init__(self) -> None:
        self._seen: dict[_Key, list[float]] = {}
        self._counts = dict.fromkeys(("sights", "over_batch", "undated", "faults"), 0)
        self._files: dict[str, tuple[PackageReader, str] | None] = {}
        self._dates: dict[str, float] = {}
        self._private: dict[str, bool] = {}
        self._texts: dict[tuple[Any, ...], Any] = {}
        self._readers: Mapping[str | None, Callable[[Sighting, Fields], None]] = {
            "zeek": self._note_zeek,
            "suricata": self._note_suricata,
            "apache": self._note_web,
            "nginx": self._note_web,
            "squid": self._note_web,
            None: self._note_web,
        }

    def note(self, sighting: Sighting, zone: tzinfo) -> None:
        """Look one event over. `zone` is that of times that name none."""
        try:
            record = sighting.record
            logical = record.logical
            try:
                file = self._files[logical]
            except KeyError:
                file = self._remember(self._files, logical, find_file_reader(logical))
            if file is not None:
                self._note_packages(sighting, record, file, zone)
                return
            view = sighting.views[0]
            product, fields = view.logsource.product, view.fields
            # Nearly all events are of these two and end here.
            if product == "windows":
                if fields.get("EventID") in _WINDOWS_IDS:
                    self._note_windows(sighting, fields)
            elif product == "linux":
                if fields.get("program", _NO_PROGRAM) in _TELLING:
                    self._note_linux(sighting, fields)
            elif (reader := self._readers.get(product)) is not None:
                reader(sighting, fields)
        except Exception:  # as every part beside the detectors: it takes nothing else away
            self._counts["faults"] += 1

    def take(self) -> tuple[list[Sight], dict[str, int]]:
        """What was seen since this was last asked, in the order of the first sights, and counts:
        `sights` (events by product), `over_batch`, `undated`, `faults`."""
        if not self._seen and not any(self._counts.values()):
            return [], {}
        sights = [
            Sight(host, vendor, product, version, how, first, last, installed, gone)
            for (host, vendor, product, version, how, installed, gone), (first, last)
            in self._seen.items()
        ]  # fmt: skip
        counts = {name: count for name, count in self._counts.items() if count}
        self._seen = {}
        self._counts = dict.fromkeys(self._counts, 0)
        return sights, counts

    # --- one log source each

    def _note_windows(self, sighting: Sighting, fields: Fields) -> None:
        service = sighting.views[0].logsource.service
        if service == "sysmon":
            event_id = fields.get("EventID")
            if event_id in _SYSMON_IDS:
                self._note_resource(sighting, fields, event_id == 1)
        elif service == "application":
            event_id = fields.get("EventID")
            if event_id in MSI_IDS:
                told = read_installer(fields, event_id)
                if told is not None:
                    product, gone = told
                    how = f"MsiInstaller {event_id}: Data"
                    self._add(sighting, sighting.host, product, how, installed=True, gone=gone)
        elif service == "system" and fields.get("EventID") == 6009:
            booted = read_boot(fields)
            if booted is not None:
                self._add(sighting, sighting.host, booted, "EventLog 6009: Data")

    def _note_resource(self, sighting: Sighting, fields: Fields, is_process: bool) -> None:
        name = fields.get("Product")
        if type(name) is not str or name == "-":
            return
        company, version = fields.get("Company"), fields.get("FileVersion")
        product = self._read(read_resource, company, name, version)
        # A library keeps the version of the Windows that it was built with, wherever it is loaded.
        if product is not None and (is_process or product.product != "Windows"):
            self._add(sighting, sighting.host, product, "Sysmon: Product, FileVersion")

    def _note_linux(self, sighting: Sighting, fields: Fields) -> None:
        program = fields.get("program")
        if program in STARTING:
            message = fields.get("message")
            if type(message) is str and (told := read_start(program, message)) is not None:
                product, is_own = told
                self._note_start(sighting, fields, product, f"{program}: message", is_own=is_own)
        elif program in _PACKAGERS:
            message = fields.get("message")
            if type(message) is str:
                for package in read_rpm(message):
                    product = Product("", package.name, package.version)
                    how = f"{program}: message"
                    host = sighting.host
                    self._add(sighting, host, product, how, installed=True, gone=package.gone)
        elif program is None and fields.get("type") == "SOFTWARE_UPDATE":
            self._note_audit(sighting, fields)

    def _note_start(
        self, sighting: Sighting, fields: Fields, product: Product, how: str, *, is_own: bool
    ) -> None:
        """A service that begins, or a client that a service met."""
        if is_own:
            self._add(sighting, sighting.host, product, how)
        elif self._is_site(address := fields.get("src_ip")):
            self._add(sighting, address, product, how)

    def _note_audit(self, sighting: Sighting, fields: Fields) -> None:
        """auditd(8)'s SOFTWARE_UPDATE, which rpm writes for each package."""
        if fields.get("res", "success") not in ("success", "1", 1):
            return
        text, kind = fields.get("sw"), fields.get("sw_type")
        if type(text) is not str or kind not in ("rpm", None) or not (found := split_rpm(text)):
            return
        gone = fields.get("op") in ("remove", "erase")
        product = Product("", found[0], "" if gone else found[1])
        how = "auditd SOFTWARE_UPDATE: sw"
        self._add(sighting, sighting.host, product, how, installed=True, gone=gone)

    def _note_zeek(self, sighting: Sighting, fields: Fields) -> None:
        service = sighting.views[0].logsource.service
        if service == "http":
            self._note_web(sighting, fields)
        elif service == "ssh":
            self._note_ssh(sighting, fields.get("src_ip"), fields.get("client"), "zeek ssh: client")
            self._note_ssh(sighting, fields.get("dst_ip"), fields.get("server"), "zeek ssh: server")
        elif service == "software":
            address = fields.get("host")
            if self._is_site(address) and (product := read_zeek_software(fields)) is not None:
                self._add(sighting, address, product, "zeek software: name, version")

    def _note_suricata(self, sighting: Sighting, fields: Fields) -> None:
        service = sighting.views[0].logsource.service
        if service == "http":
            self._note_web(sighting, fields)
        elif service == "ssh":
            for end, side in (("src_ip", "client"), ("dst_ip", "server")):
                banner = fields.get(f"ssh.{side}.software_version")
                self._note_ssh(sighting, fields.get(end), banner, f"suricata ssh: {side}")

    def _note_ssh(self, sighting: Sighting, address: Any, banner: Any, how: str) -> None:
        if type(banner) is str and self._is_site(address):
            for product in self._read(read_ssh, banner):
                self._add(sighting, address, product, how)

    def _note_web(self, sighting: Sighting, fields: Fields) -> None:
        for name in _AGENT_FIELDS:
            agent = fields.get(name)
            if agent is not None:
                if type(agent) is list and agent:  # every reading of it: the first is decoded
                    agent = agent[0]
                if type(agent) is str and len(agent) > 1:
                    address = fields.get("src_ip")
                    if self._is_site(address):
                        for product in self._read(read_agent, agent):
                            self._add(sighting, address, product, f"user agent: {name}")
                break
        for name in _SERVER_FIELDS:
            server = fields.get(name)
            if type(server) is str and self._is_site(address := fields.get("dst_ip")):
                for product in self._read(read_server, server):
                    self._add(sighting, address, product, f"Server header: {name}")
        if sighting.format == "access_error":
            self._note_server_start(sighting, fields.get("error"))
        elif sighting.format == "w3c" and type(software := fields.get("software")) is str:
            named = self._read(read_named, software)
            address = fields.get("dst_ip")
            host = sighting.host or (address if self._is_site(address) else "")
            if named is not None:
                self._add(sighting, host, named, "W3C log: #Software")

    def _note_server_start(self, sighting: Sighting, said: Any) -> None:
        """A web server's own error log: "Apache/2.4.49 (Unix) configured -- resuming ..."."""
        if type(said) is not str:
            return
        end = said.find(" configured -- resuming normal operations", 0, 512)
        if end > 0 or (said.startswith("nginx/") and len(said) < 40):
            for product in read_server(said[:end] if end > 0 else said):
                self._add(sighting, sighting.host, product, "web server's start: error")

    def _note_packages(
        self,
        sighting: Sighting,
        record: RawRecord,
        file: tuple[PackageReader, str],
        zone: tzinfo,
    ) -> None:
        """A line of a package manager's own file, as it stands there: its host is the file's."""
        reader, how = file
        line = record.data[:MAX_LINE].decode("utf-8", "replace").strip()
        time = None
        if reader is read_apt:
            # The packages of a stanza stand on lines of their own, below its date.
            if line.startswith("Start-Date: "):
                self._remember(self._dates, record.logical, _read_date(line[12:], zone))
                return
            time = self._dates.get(record.logical)
        for package in reader(line):
            if reader is read_apt and time is None:
                self._counts["undated"] += 1
                continue
            product = Product("", package.name, package.version)
            self._add(sighting, "", product, how, installed=True, gone=package.gone, time=time)

    # --- what was seen

    def _add(
        self,
        sighting: Sighting,
        host: Any,
        product: Product,
        how: str,
        *,
        installed: bool = False,
        gone: bool = False,
        time: float | None = None,
    ) -> None:
        if not product.product:
            return
        if not host:
            # Rotated or not, it is the log of one host.
            host = f"log:{_ROTATED.sub('', sighting.record.logical)}"
        if len(host) > MAX_HOST or not host.isprintable():
            host = clean_name(host, MAX_HOST)
        self._counts["sights"] += 1
        # A clock that is ahead must not make what it says the newest for years.
        moment = min(sighting.time if time is None else time, sighting.received)
        if not math.isfinite(moment):
            moment = sighting.received
        version = product.version[:MAX_VERSION]
        key = (host, product.vendor, product.product, version, how, installed, gone)
        known = self._seen.get(key)
        if known is None:
            if len(self._seen) >= MAX_SIGHTS:
                self._counts["over_batch"] += 1
                return
            self._seen[key] = [moment, moment]
        elif moment > known[1]:
            known[1] = moment
        elif moment < known[0]:
            known[0] = moment

    def _is_site(self, address: Any) -> bool:
        """Whether the address is one of the site's own hosts."""
        if type(address) is not str:
            return False
        known = self._private.get(address)
        if known is None:
            known = self._remember(self._private, address, _is_private(address))
        return known

    def _read(self, read: Callable[..., T], *texts: Any) -> T:
        """What `read` makes of the texts, remembered."""
        key = (read, *texts)
        try:
            found: T = self._texts[key]
        except KeyError:
            found = read(*texts)
            if sum(len(text) for text in texts if isinstance(text, str)) <= MAX_REMEMBERED_TEXT:
                self._remember(self._texts, key, found)
        except TypeError:  # a field that should be a text is a list
            return read(*texts)
        return found

    def _remember(self, known: dict[Any, T], key: Any, value: T) -> T:
        if len(known) >= MAX_REMEMBERED:
            known.clear()
        known[key] = value
        return value


def _is_private(address: str) -> bool:
    if address.partition(".")[0] in _PUBLIC:  # most of what is asked, at a tenth of the cost
        return False
    try:
        parsed = ipaddress.ip_address(address) if len(address) <= 64 else None
    except ValueError:
        return False
    return parsed is not None and parsed.is_private and not parsed.is_loopback


def _read_date(text: str, zone: tzinfo) -> float:
    """apt's "2024-01-01  10:00:00", local time; the beginning of time for anything else."""
    try:
        moment = datetime.fromisoformat("T".join(text[:40].split()))
        return moment.replace(tzinfo=zone).timestamp()
    except (ValueError, OverflowError):
        return 0.0
