"""Reads what is asked of web servers: attack queries, the tests of rule sets, real access logs and
Zeek's http logs of ordinary and of hostile hosts."""

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import yaml

from appliance.detect.sentinel.texts import list_texts, write_texts
from models.sentinel.corpus.windows import read_sightings
from models.sentinel.options import Options
from models.sentinel.rows import Example, Split, draw

#: Programs that ask, for attacks and ordinary requests alike; half of the requests name none.
AGENTS: Final = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like "
    "Gecko) Chrome/124.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, "
    "like Gecko) Version/17.4 Safari/605.1.15",
    "Mozilla/5.0 (X11; Linux x86_64; rv:115.0) Gecko/20100101 Firefox/115.0",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 "
    "(KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1",
    "Mozilla/5.0 (Windows NT 6.1; WOW64; Trident/7.0; rv:11.0) like Gecko",
    "curl/8.5.0",
    "python-requests/2.31.0",
    "Go-http-client/1.1",
    "Wget/1.21.3",
)
_PAGES: Final = (
    "/",
    "/index.php",
    "/search",
    "/product.php",
    "/view",
    "/api/items",
    "/login.aspx",
    "/download",
    "/news/article",
)
_PARAMETERS: Final = (
    "id",
    "q",
    "search",
    "page",
    "name",
    "user",
    "cat",
    "file",
    "lang",
    "item",
    "s",
    "ref",
)
_MAX_QUERIES: Final = 5000
#: Chapters of the core rules that are about attacks in what is asked, with their technique.
_CHAPTERS: Final = re.compile(r"REQUEST-(?:930|931|932|933|934|941|942|944|913)-")
_MAX_OF_FILE: Final = 600
#: Texts of one file of Zeek's.
_MAX_OF_ZEEK: Final = 1200


def _write(method: str, target: str, agent: str) -> Iterator[str]:
    fields = {"cs-method": method, "cs-uri-stem": target, "cs-user-agent": agent}
    for text in write_texts("url", fields):
        yield text.text


def _draw_agent(rng: random.Random) -> str:
    return rng.choice(AGENTS) if rng.random() < 0.5 else ""


def _example(
    text: str, label: int | None, source: str, group: str, split: Split, **more: Any
) -> Example:
    return Example(
        text=text,
        kind="url",
        label=label,
        source=source,
        group=group,
        shape="access",
        os="network",
        split=split,
        techniques=["T1190"] if label else [],
        attack_event=label == 1,
        **more,
    )


def read_fwaf(options: Options) -> Iterator[Example]:
    """fwaf: queries called bad; noisy, so they weigh less. Those with nothing but letters are left
    out."""
    path = options.data / "web" / "fwaf" / "badqueries.txt"
    lines = sorted(set(path.read_text(encoding="utf-8", errors="replace").splitlines()))
    odd = [
        line
        for line in lines
        if re.search(r"[<>'\"();|`$]|\.\./|%[0-9a-f]{2}|\.\.\\", line, re.IGNORECASE)
    ]
    rng = random.Random(f"{options.seed}:fwaf")
    for line in rng.sample(odd, min(_MAX_QUERIES, len(odd))):
        split: Split = "valid" if draw("fwaf", line) < 10 else "train"
        for text in _write(
            rng.choice(("GET", "GET", "GET", "POST")), line[:2000], _draw_agent(rng)
        ):
            yield _example(text, 1, "fwaf", f"fwaf:{draw('fwaf-group', line)}", split, weight=0.6)


def read_libinjection(options: Options) -> Iterator[Example]:
    """libinjection: injected values, put into a query as a browser or a tool writes them; and what
    it once took for one and is none."""
    for path in sorted((options.data / "web" / "libinjection").glob("*.txt")):
        label = 0 if path.name == "false_positives.txt" else 1
        split: Split = "test" if draw("libinjection", path.name) < 20 else "train"
        rng = random.Random(f"{options.seed}:libinjection:{path.name}")
        lines = [
            line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
        ]
        values = [line for line in lines if len(line) > 3 and not line.startswith("#")]
        for value in values[:: max(1, len(values) // _MAX_OF_FILE)]:
            written = value[:1000]
            if "%" not in written and rng.random() < 0.7:
                written = quote(written, safe="()*;:,'=")
            target = f"{rng.choice(_PAGES)}?{rng.choice(_PARAMETERS)}={written}"
            for text in _write("GET", target, _draw_agent(rng)):
                yield _example(
                    text, label, "libinjection", f"libinjection:{path.name}", split, weight=0.8
                )


def read_core_rules(options: Options) -> Iterator[Example]:
    """ModSecurity core rules' own tests, those that show what they test in the address."""
    for path in sorted((options.data / "web" / "coreruleset").rglob("*.yaml")):
        if not _CHAPTERS.search(str(path.parent.name)):
            continue
        split: Split = "test" if draw("coreruleset", path.stem) < 20 else "train"
        rng = random.Random(f"{options.seed}:{path.stem}")
        document = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        for test in document.get("tests") or ():
            for stage in test.get("stages") or ():
                asked, log = stage.get("input") or {}, (stage.get("output") or {}).get("log") or {}
                uri = str(asked.get("uri") or "")
                if not re.search(r"[?=%]", uri):
                    continue
                label = 1 if log.get("expect_ids") else 0 if log.get("no_expect_ids") else None
                for text in _write(str(asked.get("method") or "GET"), uri, _draw_agent(rng)):
                    yield _example(
                        text,
                        label,
                        "coreruleset",
                        f"coreruleset:{path.stem}",
                        split,
                        weight=1.0 if label else 0.4,
                    )


def read_access(options: Options) -> Iterator[Example]:
    """A real access log, unlabelled."""
    for path in sorted((options.data / "web" / "access-logs").iterdir()):
        seen: set[str] = set()
        for sighting in read_sightings(path, path.name):
            for text in list_texts(sighting.views, sighting.host):
                if text.kind == "url" and text.text not in seen and len(seen) < 3000:
                    seen.add(text.text)
                    yield _example(text.text, None, "access-logs", path.name, "train")


#: Folders of Zeek logs: their set, and the label of the host that asks. rita's one beacon is
#: 73.54.23.243 -> 64.225.56.201; its other hosts are ordinary.
_BEACON: Final = ("73.54.23.243", "64.225.56.201")


def read_zeek(options: Options) -> Iterator[Example]:
    """Zeek's http and dns logs: of ordinary hosts (rita), of labelled flows (stratosphere, by its
    folders), of a competition (unlabelled)."""
    network = options.data / "network"
    for name in ("rita", "stratosphere", "zeek-wrccdc"):
        for path in sorted((network / name).rglob("*")):
            if path.is_file() and re.match(r"(?:http|dns)[\w.:-]*$", path.name):
                yield from _read_zeek_file(path, name, str(path.relative_to(network)))


def _label_folder(name: str, logical: str) -> int | None:
    if name == "rita":
        return 0
    if name == "stratosphere" and re.search(r"benign|normal", logical, re.IGNORECASE):
        return 0
    return None


def _read_zeek_file(path: Path, name: str, logical: str) -> Iterator[Example]:
    label = _label_folder(name, logical)
    known: set[str] = set()
    for number, sighting in enumerate(read_sightings(path, logical)):
        if number > 60_000 or len(known) >= _MAX_OF_ZEEK:
            break
        fields = sighting.views[0].fields
        hostile = any(
            str(fields.get(key)) in _BEACON
            for key in ("id.orig_h", "id.resp_h", "src_ip", "dst_ip")
        )
        # A server on the open Internet: what it has not is what scanners ask for.
        refused = isinstance(status := fields.get("sc-status"), int) and status >= 400
        # One site, or one name's domain, is in one split.
        site = str(
            fields.get("cs-host") or ".".join(str(fields.get("query") or logical).split(".")[-2:])
        )
        for text in list_texts(sighting.views, sighting.host):
            if text.text in known or text.kind not in ("dns", "url"):
                continue
            known.add(text.text)
            yield Example(
                text=text.text,
                kind=text.kind,
                label=None if hostile or refused else label,
                source=name,
                group=f"{name}:{site}"[:120],
                shape="zeek",
                os="network",
                weight=0.8,
                split="test" if draw("zeek", site) < 30 else "train",
            )


def read_web(options: Options) -> Iterator[Example]:
    """Every collection."""
    for read in (read_fwaf, read_libinjection, read_core_rules, read_access, read_zeek):
        yield from read(options)
