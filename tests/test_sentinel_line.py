"""The sentinel on the line, with a random model that llama.cpp really runs: scan and daemon,
workers, a killed child, a reload, a crash, and rules that notice nothing of it."""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from appliance.assembly import open_sentinel
from appliance.cli import main
from appliance.config import Config, Sentinel, dump_config, load_config, parse_config
from appliance.detect.sentinel.heads import Heads
from appliance.detect.sentinel.texts import Text
from appliance.detect.sentinel.watch import Candidate
from appliance.errors import ConfigError
from appliance.health import Health
from appliance.inference.client import SentinelClient, SentinelClients
from appliance.pipeline import QuietFilter, Reader, Work, read_records
from appliance.report.scan_files import FORMATS
from appliance.scan import run_scan
from appliance.schema import SourceBatch
from appliance.selftest import Scene, check_sentinel
from appliance.status import read_stopped_status
from appliance.store import Store
from appliance.worker_frames import Committed, Did, pack_work, read_frame, write_frame
from tests.builders import make_event, make_record
from tests.demo.scenario import begin_files, build_scenario
from tests.sentinel_models import WORDS, write_manifest, write_sentinel
from tests.test_daemon import ROOT_LOGIN, Box, wait_for
from tests.test_reload import FileBox
from tests.test_workers import with_workers

START = 1_795_000_000.0


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random sentinel that finds about one of `make_lines` in five."""
    folder = tmp_path_factory.mktemp("sentinel")
    path = write_sentinel(folder, ngrams=True)
    client = SentinelClient(path)
    client.start()
    try:
        vectors = client.embed([f"log sshd : {line}" for line in make_lines(300)])
    finally:
        client.close()
    heads = Heads.parse((folder / "sentinel.heads.safetensors").read_bytes(), "heads")
    limit = heads.find_threshold("log", Sentinel().budget)
    highest = float(np.quantile(heads.weigh(vectors), 0.8))
    bias = float(np.log(limit / (1 - limit))) - highest
    return write_sentinel(folder, bias=bias, ngrams=True)


@pytest.fixture
def box(model: Path) -> Iterator[Box]:
    with tempfile.TemporaryDirectory(prefix="box-") as folder:
        box = Box(Path(folder))
        box.config = replace(box.config, model=True, sentinel=Sentinel(model=str(model), repeat=0))
        yield box
        box.stop()


def make_lines(count: int, seed: int = 1) -> list[str]:
    """Different messages of sshd, in words that the model knows."""
    dice = random.Random(seed)
    return [" ".join(dice.choice(WORDS) for _ in range(8)) for _ in range(count)]


def find_hot(model: Path, lines: list[str], budget: float = Sentinel().budget) -> list[str]:
    """Those of the messages that score over the threshold."""
    texts = [Text("log", f"log sshd : {line}") for line in lines]
    parts = open_sentinel(Config(sentinel=Sentinel(model=str(model), budget=budget)), None)
    assert parts.examiner is not None
    assert parts.clients is not None
    parts.clients.start()
    try:
        scores = parts.examiner.score(texts)
    finally:
        parts.close()
    limit = parts.examiner.find_threshold("log")
    assert all(abs(score - limit) > 1e-6 for score in scores)
    return [line for line, score in zip(lines, scores, strict=True) if score > limit]


def told(rows: list[dict[str, Any]]) -> list[str]:
    """The messages that findings of the sentinel are about."""
    mine = [row for row in rows if row["detector"] == "sentinel"]
    return sorted(row["sentinel"]["text"].partition(" : ")[2] for row in mine)


def scan_bytes(paths: list[Path], config: Config, out: Path) -> bytes:
    done = run_scan([str(path) for path in paths], config, on_progress=lambda *_: None)
    try:
        with out.open("wb") as stream:
            FORMATS["jsonl"](done.store.iterate_findings(), stream)
    finally:
        done.close()
    return out.read_bytes()


def write_demo(folder: Path) -> list[Path]:
    """The demonstration's lines, in their files."""
    files = dict(begin_files(START))
    for step in build_scenario(START):
        files[step.file] = files.get(step.file, "") + step.line + "\n"
    for name, content in files.items():
        path = folder / name
        path.write_text(content)
        os.utime(path, (START, START))
    return sorted(folder / name for name in files)


# -- the child -------------------------------------------------------------------------------------


def test_the_child_is_small_quick_and_gives_the_mean_as_it_is(model: Path) -> None:
    client = SentinelClient(model)
    began = time.perf_counter()
    client.start()
    assert client.wait_ready(30)
    loaded = time.perf_counter() - began
    try:
        texts = make_lines(200)
        vectors = client.embed(texts)
        assert vectors.shape == (200, client.dims)
        lengths = np.linalg.norm(vectors, axis=1)
        assert np.abs(lengths - 1).min() > 0.1  # not normalised
        # Neighbours change nothing: the same text always has the same score.
        assert (client.embed(texts[::-1])[::-1] == vectors).all()
        pid = client.state().pid
        status = Path(f"/proc/{pid}/status").read_text()
        assert int(status.split("VmHWM:")[1].split()[0]) < 300 * 1024
        assert os.getpriority(os.PRIO_PROCESS, pid or 0) == min(19, os.nice(0) + 10)
        assert loaded < 5  # a second, on a machine that has one to spare
    finally:
        client.close()


def test_only_the_first_tokens_count(tmp_path: Path) -> None:
    client = SentinelClient(write_sentinel(tmp_path, tokens=16))
    client.start()
    try:
        head = " ".join(WORDS[:14])  # and [CLS], [SEP]
        one, other, less = client.embed([head, f"{head} password root", " ".join(WORDS[:13])])
        assert (one == other).all()
        assert (one != less).any()
    finally:
        client.close()


def test_two_children_give_what_one_gives(model: Path) -> None:
    texts = make_lines(101)
    answers = []
    for count in (1, 2):
        clients = SentinelClients(model, count)
        clients.start()
        try:
            assert clients.wait_ready(30)
            answers.append(clients.embed(texts))
            assert sum(state.answered for state in clients.states()) == len(texts)
            assert all(state.answered for state in clients.states())
        finally:
            clients.close()
    assert (answers[0] == answers[1]).all()


@pytest.mark.parametrize("name", ["sentinel.gguf", "sentinel.heads.safetensors"])
def test_a_file_that_was_changed_is_never_loaded(model: Path, tmp_path: Path, name: str) -> None:
    for path in model.parent.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    raw = bytearray((tmp_path / name).read_bytes())
    raw[-1] ^= 1
    (tmp_path / name).write_bytes(raw)
    config = Config(sentinel=Sentinel(model=str(tmp_path)))
    parts = open_sentinel(config, None)
    assert parts.examiner is None
    assert "its manifest says" in parts.why_not
    health = Health(config, {}, 0.0)
    (trouble,) = health.look(1.0, {"sentinel": parts.describe()})
    assert (trouble.part, trouble.notice) == ("sentinel", False)
    if name == "sentinel.gguf":  # nor by the child, whoever starts it
        command = ["-m", "appliance.inference.worker", "--sentinel", "--model"]
        done = subprocess.run(
            [sys.executable, *command, str(tmp_path / name)],
            stdin=subprocess.DEVNULL, capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert b"its manifest says" in done.stdout


def test_heads_of_another_model_are_refused(tmp_path: Path) -> None:
    write_sentinel(tmp_path, dims=64)
    write_manifest(tmp_path, dims=128)
    parts = open_sentinel(Config(sentinel=Sentinel(model=str(tmp_path))), None)
    assert "of 64 dimensions, the model has 128" in parts.why_not


def test_without_a_model_or_switched_off() -> None:
    health = Health(Config(), {}, 0.0)
    with tempfile.TemporaryDirectory() as empty, pytest.MonkeyPatch.context() as patch:
        patch.setattr("appliance.assembly.find_sentinel", lambda _: None)
        assert open_sentinel(Config(), None).why_not == "no model"
        assert health.look(1.0, {"sentinel": {"missing": "no model"}}) == []
        (check,) = check_sentinel(Scene(Config(state_dir=empty), "", None, 0.0))
        assert (check.state, check.words) == ("ok", "no model")
    for config in (Config(model=False), Config(sentinel=Sentinel(enabled=False))):
        assert open_sentinel(config, None).why_not == "switched off"


# -- what is listed --------------------------------------------------------------------------------


class Quiet:
    def __init__(self, *texts: str) -> None:
        self.texts = texts

    def is_quiet(self, text: Text) -> bool:
        return text.text in self.texts


class Faulty:
    def is_quiet(self, text: Text) -> bool:
        raise ZeroDivisionError


def read_logins(quiet: QuietFilter | None) -> Work:
    lines = [f"Nov 22 09:00:00 jump sshd[71]: {line}" for line in ("failed root", "net user")]
    records = [
        msgspec.structs.replace(make_record(n, line.encode()), format="auto")
        for n, line in enumerate(lines)
    ]
    reader = Reader(detectors={}, zones={"logs": UTC}, quiet=quiet)
    return read_records([SourceBatch(records, [], [])], reader)


def test_events_become_candidates_unless_they_are_known() -> None:
    work = read_logins(Quiet("log sshd : net user"))
    assert [[t.text for t in c.texts] for c in work.candidates] == [["log sshd : failed root"]]
    assert work.counts["sentinel"] == {"events": 2, "texts": 2, "known": 1}
    assert read_logins(None).candidates == []
    assert "sentinel" not in read_logins(None).counts


def test_a_fault_in_listing_costs_no_record() -> None:
    work = read_logins(Faulty())
    assert work.counts["sentinel"] == {"faults": 2}
    assert work.counts["source:logs"]["decoded"] == 2
    assert work.rejected == []


def test_candidates_cross_the_pipe_with_their_events(tmp_path: Path) -> None:
    event = make_event(1)
    work = Work([], [], [], {}, {}, [], [Candidate(event, (Text("log", "log a"),), ("r",))])
    packed = pack_work(work)
    assert len(packed.events) == 1
    assert b"logs" in msgspec.msgpack.encode(packed)
    with (tmp_path / "pipe").open("w+b") as pipe:
        write_frame(pipe, packed)
        write_frame(pipe, Committed((b"k" * 16,)))
        pipe.seek(0)
        did = read_frame(pipe, msgspec.msgpack.Decoder(Did))
        committed = read_frame(pipe, msgspec.msgpack.Decoder(Committed))
    assert did is not None
    assert did.unpack() == work
    assert committed == Committed((b"k" * 16,))
    with pytest.raises(ValueError, match="no event"):
        msgspec.structs.replace(did, candidates=[1]).unpack()


# -- scan ------------------------------------------------------------------------------------------


def test_rules_find_what_they_found_and_the_same_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    paths = write_demo(folder)
    plain = Config(sentinel=Sentinel(enabled=False))
    eager = write_sentinel(tmp_path / "eager", bias=2.5)
    watched = Config(sentinel=Sentinel(model=str(eager), budget=10))
    without = scan_bytes(paths, plain, tmp_path / "without")
    rows = [json.loads(line) for line in scan_bytes(paths, watched, tmp_path / "with").splitlines()]
    mine = [row for row in rows if row["detector"] == "sentinel"]
    agreeing = [row for row in rows if row["detector"] == "sigma" and "agreement" in row]
    assert len(mine) > 20
    assert agreeing
    kept = []
    for row in rows:
        if row["detector"] != "sentinel":
            row.pop("agreement", None)
            kept.append(row)
    # The incident alone may be another: the sentinel's findings join them, and may open one.
    before = [json.loads(line) for line in without.splitlines()]
    assert len(before) == len(kept)
    for row in (*before, *kept):
        row.pop("incident")
    assert [json.dumps(row) for row in before] == [json.dumps(row) for row in kept]
    ids = {row["id"]: row for row in mine}
    for row in agreeing:
        (key,) = [k for k, r in ids.items() if r["event"]["id"] == row["event"]["id"]][:1]
        assert {"detector": "sigma", "rule_id": row["rule_id"]} in ids[key]["agreement"]


def test_a_scan_gives_the_same_bytes_again_and_with_two_children(
    model: Path, tmp_path: Path
) -> None:
    log = tmp_path / "auth.log"
    lines = make_lines(400)
    log.write_text("".join(f"Nov 22 09:00:00 jump sshd[71]: {line}\n" for line in lines * 2))
    os.utime(log, (START, START))
    settings = Sentinel(model=str(model), repeat=0)
    config = Config(sentinel=settings, rules=())
    first = scan_bytes([log], config, tmp_path / "1")
    assert scan_bytes([log], config, tmp_path / "2") == first
    for other in (replace(settings, processes=2), replace(settings, cache=7)):
        assert scan_bytes([log], replace(config, sentinel=other), tmp_path / "3") == first
    rows = [json.loads(line) for line in first.splitlines()]
    assert told(rows) == sorted(find_hot(model, lines) * 2)
    assert len(told(rows)) > 40
    assert len({row["id"] for row in rows}) == len(rows)
    # As it is set: one a text and host.
    once = scan_bytes(
        [log], replace(config, sentinel=replace(settings, repeat=86400)), tmp_path / "4"
    )
    assert told([json.loads(line) for line in once.splitlines()]) == sorted(find_hot(model, lines))


def test_no_model_switches_it_off(model: Path, tmp_path: Path, capsys: Any) -> None:
    log = tmp_path / "auth.log"
    log.write_text(f"Nov 22 09:00:00 jump sshd[71]: {find_hot(model, make_lines(50))[0]}\n")
    config = tmp_path / "c.yaml"
    config.write_text(
        f"state_dir: {tmp_path}\nsentinel: {{model: {model}}}\n"
        f"sources: [{{name: a, paths: [{log}]}}]\n"
    )
    for flags, count in (([], 1), (["--no-model"], 0)):
        out = tmp_path / "out.jsonl"
        assert main(["scan", str(log), "--config", str(config), "--out", str(out), *flags]) == 0
        rows = [json.loads(line) for line in out.read_bytes().splitlines()]
        assert len(told(rows)) == count
    capsys.readouterr()


# -- the daemon ------------------------------------------------------------------------------------


def test_the_daemon_finds_later_what_is_new_and_at_once_what_it_knows(
    box: Box, model: Path
) -> None:
    lines = make_lines(100)
    hot = find_hot(model, lines)
    box.start()
    for line in (*lines, ROOT_LOGIN):
        box.append(line)
    expected = sorted(hot)
    wait_for(lambda: len(told(box.findings())) >= len(expected))
    assert told(box.findings()) == expected
    assert any(row["detector"] == "sigma" for row in box.findings())
    facts = wait_for(lambda: (f := box.ask()["sentinel"])["judged"] == 101 and f)
    assert (facts["events"], facts["queued"], facts["waiting"]) == (101, 101, 0)
    assert facts["hash"]
    assert not any(trouble["part"] == "sentinel" for trouble in box.ask()["troubles"])
    assert facts["per_second"] > 0
    for line in lines:
        box.append(line)
    wait_for(lambda: len(told(box.findings())) >= 2 * len(expected))
    assert told(box.findings()) == sorted(hot * 2)
    facts = box.ask()["sentinel"]
    assert facts["known"] == 100 - len(hot)
    assert (facts["at_once"], facts["queued"]) == (len(hot), 101)
    assert facts["known_share"] == pytest.approx(facts["known"] / 201, abs=1e-3)
    box.stop()
    stopped = read_stopped_status(box.config)["sentinel"]
    assert (stopped["unjudged"], stopped["skipped"], stopped["failed"]) == (0, 0, 0)
    assert main(["status", "--state", box.config.state_dir]) == 4


def child_pid(box: Box) -> int:
    return int(wait_for(lambda: box.ask()["sentinel"]["processes"][0]["pid"]))


def test_a_killed_child_costs_no_judgement(box: Box, model: Path) -> None:
    lines = make_lines(600, seed=2)
    hot = find_hot(model, lines)
    box.start()
    for number, line in enumerate(lines):
        box.append(line)
        if number % 200 == 100:
            os.kill(child_pid(box), signal.SIGKILL)
            time.sleep(0.3)
    wait_for(lambda: len(told(box.findings())) >= len(hot), 60)
    assert told(box.findings()) == sorted(hot)
    facts = wait_for(lambda: (f := box.ask()["sentinel"])["judged"] == 600 and f)
    assert facts["restarts"] >= 1
    assert (facts["failed"], facts["skipped"], facts["unjudged"]) == (0, 0, 0)


def test_a_child_that_dies_with_nothing_to_do_is_started_again(box: Box) -> None:
    box.start()
    pid = child_pid(box)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: child_pid(box) != pid)
    assert box.ask()["sentinel"]["restarts"] == 1


def test_overrides_hold_for_it_too(box: Box, model: Path) -> None:
    lines = make_lines(60, seed=9)
    path = box.folder / "overrides.yaml"
    path.write_text("rules: {'sentinel:log': {level: low, reason: noise}}\n")
    box.config = replace(box.config, overrides=str(path))
    box.start()
    for line in lines:
        box.append(line)
    hot = find_hot(model, lines)
    wait_for(lambda: len(told(box.findings())) == len(hot))
    assert {row["level"] for row in box.findings()} == {"low"}


def test_a_child_that_hangs_holds_up_no_rule_and_fills_no_more_than_its_queue(
    box: Box, model: Path
) -> None:
    settings = Sentinel(model=str(model), queue=50)
    box.config = replace(box.config, sentinel=settings)
    box.start()
    pid = child_pid(box)
    os.kill(pid, signal.SIGSTOP)
    try:
        for line in make_lines(200, seed=3):
            box.append(line)
        box.append(ROOT_LOGIN)
        wait_for(lambda: any(row["detector"] == "sigma" for row in box.findings()), 5)
        facts = box.ask()["sentinel"]
        assert facts["waiting"] <= 50
        assert facts["queued"] + facts["skipped"] == 201
        assert facts["skipped"] >= 150
        assert facts["unjudged"] == 0
        wait_for(lambda: any(t["part"] == "sentinel" for t in box.ask()["troubles"]))
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_for(lambda: box.ask()["sentinel"]["waiting"] == 0)
    facts = box.ask()["sentinel"]
    assert facts["judged"] == facts["queued"]


def test_a_clean_stop_judges_what_waits(box: Box, model: Path) -> None:
    lines = make_lines(300, seed=4)
    box.log.write_text("".join(f"Nov 22 09:00:00 jump sshd[71]: {line}\n" for line in lines))
    box.start()
    wait_for(lambda: box.ask()["sentinel"]["queued"] == 300)
    box.stop()
    with closing(Store(box.config.store_path, read_only=True)) as store:
        assert told(store.finding_bodies(limit=1000)) == sorted(find_hot(model, lines))
    assert read_stopped_status(box.config)["sentinel"]["unjudged"] == 0


CHILD = """
import sys
from pathlib import Path
from appliance.config import parse_config
from appliance.daemon import Daemon
Daemon(parse_config(Path(sys.argv[1]).read_text(), "c", checked=True)).run()
"""


def test_after_a_crash_the_store_says_how_many_were_not_judged(box: Box) -> None:
    path = box.folder / "c.yaml"
    path.write_text(dump_config(box.config))
    lines = make_lines(300, seed=5)
    daemon = subprocess.Popen([sys.executable, "-c", CHILD, str(path)])
    try:
        wait_for(box.config.control_path.exists)
        pid = child_pid(box)
        os.kill(pid, signal.SIGSTOP)
        box.log.write_text("".join(f"Nov 22 09:00:00 jump sshd[71]: {line}\n" for line in lines))
        wait_for(lambda: box.ask()["sentinel"]["queued"] == 300)
        assert box.ask()["sentinel"]["unjudged"] == 0  # they wait
    finally:
        daemon.kill()
        daemon.wait()
    facts = read_stopped_status(box.config)["sentinel"]
    assert (facts["queued"], facts["judged"], facts["unjudged"]) == (300, 0, 300)
    box.config.control_path.unlink()
    box.start()  # it goes on behind them, and goes on saying so
    box.append(ROOT_LOGIN)
    wait_for(lambda: box.ask()["sentinel"]["judged"] == 1)
    assert box.ask()["sentinel"]["unjudged"] == 300


def test_with_worker_processes_all_are_judged_by_the_one_sentinel(box: Box, model: Path) -> None:
    lines = make_lines(150, seed=6)
    hot = find_hot(model, lines)
    cold = next(line for line in lines if line not in hot)
    logs = with_workers(box, 2)
    box.start()
    for again in (1, 2, 3):
        for log in logs:
            with log.open("a") as out:
                out.writelines(f"Nov 22 09:00:00 jump sshd[71]: {line}\n" for line in lines)
        expected = sorted(hot * 2 * again)
        wait_for(lambda e=expected: len(told(box.findings())) >= len(e), 30)  # type: ignore[misc]
        assert told(box.findings()) == expected
        wait_for(lambda: box.ask()["sentinel"]["waiting"] == 0)
        for log in logs:  # a batch more: with it the workers are told what was ordinary
            with log.open("a") as out:
                out.write(f"Nov 22 09:00:00 jump sshd[71]: {cold}\n")
        seen = 2 * again * (len(lines) + 1)
        wait_for(lambda n=seen: sum(s["seen"] for s in box.ask()["sources"]) == n)  # type: ignore[misc]
    facts = box.ask()["sentinel"]
    assert facts["events"] == 2 * 3 * 151
    assert facts["known"] >= 2 * 2 * (150 - len(hot))  # not sent the second and third time
    assert facts["unjudged"] == 0


def test_a_reload_changes_the_budget_and_switches_it_off(model: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="box-") as folder:
        box = FileBox(Path(folder))
        lines = make_lines(100, seed=7)
        strict, loose = find_hot(model, lines, 0.1), find_hot(model, lines, 10)
        assert 0 < len(strict) < len(loose)

        def write(settings: str) -> None:
            box.write(f"sentinel: {settings}")
            text = box.path.read_text()
            box.path.write_text(text.replace("model: false", "model: true", 1))

        def reload(settings: str) -> None:
            write(settings)
            before = box.ask()["loaded"]
            assert box.daemon is not None
            box.daemon.reload()
            wait_for(lambda: box.ask()["loaded"] != before)

        write(f"{{model: {model}, budget: 0.1, repeat: 0}}")
        box.config = load_config(box.path)
        box.start()
        try:
            for line in lines:
                box.append(line)
            wait_for(lambda: box.ask()["sentinel"]["judged"] == 100)
            assert told(box.findings()) == sorted(strict)
            pid = child_pid(box)
            reload(f"{{model: {model}, budget: 0.1, repeat: 0}}")
            assert child_pid(box) == pid  # the same: it goes on
            reload(f"{{model: {model}, budget: 10, repeat: 0}}")
            assert child_pid(box) != pid
            for line in lines:
                box.append(line)
            wait_for(lambda: len(told(box.findings())) >= len(strict) + len(loose))
            assert told(box.findings()) == sorted(strict + loose)
            reload("{enabled: false}")
            assert box.ask()["sentinel"]["missing"] == "switched off"
            box.append(ROOT_LOGIN)
            wait_for(lambda: any(row["detector"] == "sigma" for row in box.findings()))
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
        finally:
            box.stop()


def test_a_broken_model_is_said_and_the_rules_run(box: Box, model: Path) -> None:
    broken = box.folder / "m"
    broken.mkdir()
    for path in model.parent.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    (broken / "sentinel.gguf").write_bytes(b"GGUF" + b"\0" * 100)
    write_manifest(broken, dims=129)  # its hashes are right, llama.cpp can't load it
    box.config = replace(box.config, sentinel=Sentinel(model=str(broken)))
    box.start()
    box.append(ROOT_LOGIN)
    wait_for(lambda: any(row["detector"] == "sigma" for row in box.findings()))
    troubles = wait_for(lambda: [t for t in box.ask()["troubles"] if t["part"] == "sentinel"], 20)
    assert "is down" in troubles[0]["words"]
    assert box.ask()["sentinel"]["waiting"] == 1


# -- commands and configuration --------------------------------------------------------------------


def test_eval_measures_files_and_texts(model: Path, tmp_path: Path, capsys: Any) -> None:
    lines = make_lines(60, seed=8)
    hot = find_hot(model, lines)
    folder = tmp_path / "logs"
    folder.mkdir()
    rows = ["path,label"]
    for number, line in enumerate(lines):
        (folder / f"{number}.log").write_text(f"Nov 22 09:00:00 jump sshd[71]: {line}\n")
        rows.append(f"{number}.log,{int(line in hot)}")
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join(rows) + "\n")
    command = ["model", "eval", str(folder), "--model", str(model), "--json", "--labels"]
    assert main([*command, str(labels)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["files"], facts["records"], facts["rejected"], facts["texts"]) == (60, 60, 0, 60)
    by_kind = {row["kind"]: row for row in facts["rows"]}
    assert list(by_kind) == ["log", "all", "files"]
    assert by_kind["log"]["attacks"] == len(hot)
    assert by_kind["files"]["auroc"] == by_kind["log"]["auroc"] == 1.0
    texts = tmp_path / "labels.jsonl"
    texts.write_text("".join(
        json.dumps({"text": f"log sshd : {line}", "kind": "log", "label": int(line not in hot)})
        + "\n" for line in lines
    ) + '{"text": "x", "kind": "log", "label": null}\n')  # fmt: skip
    assert main([*command, str(texts)]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["auroc"] == 0.0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "no labels"),
        ("path,label\nx.log,maybe\n", "labels:2: label must be"),
        ("path,label\ngone.log,1\n", "no such file"),
        ('{"text": "a", "kind": "nothing", "label": 1}\n', "labels:1: names no path"),
        ('{"text": \n', "labels:1: not a JSON object"),
    ],
)
def test_labels_that_are_none_are_refused(
    model: Path, tmp_path: Path, capsys: Any, content: str, said: str
) -> None:
    labels = tmp_path / "labels"
    labels.write_text(content)
    command = ["model", "eval", str(tmp_path), "--labels", str(labels), "--model", str(model)]
    assert main(command) == 2
    assert said in capsys.readouterr().err


def test_selftest_asks_it_for_two_known_events(model: Path, tmp_path: Path) -> None:
    config = Config(state_dir=str(tmp_path), sentinel=Sentinel(model=str(model)))
    files, answer = check_sentinel(Scene(config, "", None, 0.0))
    assert files.state == "ok"
    assert answer.what == "sentinel's answer"
    # Which of the two a random model prefers is chance; turned round it prefers the other.
    turned = write_sentinel(tmp_path / "turned", scale=-1.0)
    config = replace(config, sentinel=Sentinel(model=str(turned)))
    _, other = check_sentinel(Scene(config, "", None, 0.0))
    assert {answer.state, other.state} == {"ok", "FAIL"}


def test_settings_have_bounds() -> None:
    text = "sources: [{name: a, paths: [/x]}]\nsentinel: {%s}\n"
    assert parse_config(text % "budget: 0.5, processes: 2", "c").sentinel.budget == 0.5
    for wrong in ("budget: 0", "processes: 99", "queue: 0", "model: /nowhere", "bogus: 1"):
        with pytest.raises(ConfigError):
            parse_config(text % wrong, "c")
