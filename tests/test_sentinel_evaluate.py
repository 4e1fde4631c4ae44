"""The recipe's stage `evaluate`: its figures against plain counting, its thresholds in the heads,
and the whole of it over a model of random weights run through llama.cpp."""

import hashlib
import json
import math
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from appliance.detect.sentinel.heads import About, Heads
from appliance.errors import ModelError
from appliance.inference.manifest import SENTINEL_HEADS, SENTINEL_MANIFEST, verify_sentinel
from appliance.sentinel_metrics import (
    bound_auroc,
    bound_by_groups,
    bound_share,
    measure_auroc,
)
from models.sentinel.evaluate import RESULTS_FILE, evaluate
from models.sentinel.evaluate.attribution import (
    Guesser,
    measure_attribution,
    read_mappings,
    read_name,
)
from models.sentinel.evaluate.budgets import (
    BUDGETS,
    DAYS,
    choose_kinds,
    choose_thresholds,
    count_findings,
    count_over,
    find_event_threshold,
    find_tail_threshold,
    gather_background,
    write_thresholds,
)
from models.sentinel.evaluate.compared import Rival, measure_parity, read_rivals
from models.sentinel.evaluate.evasion import REWRITES, list_rewritten, measure_evasion
from models.sentinel.evaluate.figures import compare, measure_calibration, measure_cells
from models.sentinel.evaluate.files import Limit, measure_files, pick_commands
from models.sentinel.evaluate.reading import ReadEvent, ReadFile, measure_time
from models.sentinel.evaluate.samples import Sample, Samples, gather_samples, pick_background
from models.sentinel.evaluate.scoring import Scorer, squash, unsquash
from models.sentinel.options import Options
from models.sentinel.rows import Example, Split, write_rows
from models.sentinel.ship import ship_model
from tests.sentinel_models import write_sentinel

_ORDINARY = ("svchost.exe : svchost.exe -k netsvcs", "notepad.exe : notepad", "chrome.exe : chrome")
_ATTACKS = ("cmd.exe : whoami", "powershell.exe : mimikatz", "net.exe : net user add")


def weigh_by_number(texts: Sequence[str]) -> NDArray[np.float64]:
    """A model that says the number at the text's end."""
    return np.array([float(text.rsplit(" ", 1)[1]) for text in texts], np.float64)


def make_sample(text: str, label: int, group: str, **more: object) -> Sample:
    known = {
        "kind": "process",
        "os": "windows",
        "source": "evtx-attack-samples" if label else "security-datasets",
        "strict": True,
        "shape": "sysmon1",
        "unseen": False,
        "real": True,
        **more,
    }
    return Sample(text=text, label=label, groups=(group,), **known)  # type: ignore[arg-type]


def make_file(name: str, texts: Sequence[str], rules: int = 0, split: str = "test") -> ReadFile:
    events = [
        ReadEvent([("process", text)], "h1", 1000.0 + 10 * at, raw={"CommandLine": text})
        for at, text in enumerate(texts)
    ]
    return ReadFile(name, split, len(events), {"r": rules} if rules else {}, events)


# -- intervals ------------------------------------------------------------------------------------


def test_wilson_interval_is_the_published_one() -> None:
    # Newcombe 1998 (Stat. Med. 17:857), table I: 81 of 263 -> 0.2553-0.3662, 0 of 20 -> 0-0.1611.
    low, high = bound_share(81, 263) or (0.0, 0.0)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    low, high = bound_share(0, 20) or (1.0, 0.0)
    assert (low, round(high, 4)) == (0.0, 0.1611)
    assert bound_share(0, 0) is None


def test_interval_by_groups_is_wider_when_a_group_is_of_one_mind() -> None:
    hits = np.array([1.0] * 50 + [0.0] * 50)

    def measure(drawn: NDArray[np.float64]) -> float:
        return float((hits * drawn).sum() / drawn.sum())

    alone = bound_by_groups(measure, [str(n) for n in range(100)], 1)
    alike = bound_by_groups(measure, [str(n // 25) for n in range(100)], 1)
    assert alone is not None
    assert alike is not None
    assert alike[1] - alike[0] > 2 * (alone[1] - alone[0])
    assert alone[0] < 0.5 < alone[1]
    assert bound_by_groups(measure, ["one"] * 100, 1) is None


def test_auroc_interval_holds_the_figure_and_equals_it_when_all_is_drawn_once() -> None:
    numbers = random.Random(3)
    labels = [numbers.random() < 0.4 for _ in range(200)]
    scores = [round(numbers.gauss(1.0 if label else 0.0), 1) for label in labels]
    groups = [str(n) for n in range(200)]
    exact = measure_auroc(labels, scores)
    interval = bound_auroc(labels, scores, groups, seed=5)
    assert exact is not None
    assert interval is not None
    assert interval[0] < exact < interval[1]
    assert interval[1] - interval[0] < 0.2
    assert interval == bound_auroc(labels, scores, groups, seed=5)


# -- figures --------------------------------------------------------------------------------------


def test_compare_counts_texts_and_files_over_the_threshold() -> None:
    background = [make_sample(f"o {n / 1000}", 0, f"b{n % 7}") for n in range(1000)]
    attacks = [
        make_sample("a 2", 1, "f1"),
        make_sample("a 0.5", 1, "f1"),
        make_sample("a 0.995", 1, "f2"),
        make_sample("a 0.1", 1, "f3"),
    ]
    cell = compare(
        attacks, background, weigh_by_number, against="x", kind="process", seed=1, rounds=20
    )
    strict, loose = cell.rates
    assert (strict.rate, strict.threshold) == ("1 in 1,000", 0.998)
    assert strict.texts is not None
    assert strict.groups is not None
    assert (strict.texts.hits, strict.texts.total) == (1, 4)
    assert (strict.groups.hits, strict.groups.total) == (1, 3)
    assert loose.threshold == 0.989
    assert loose.groups is not None
    assert (loose.groups.hits, loose.groups.total) == (2, 3)
    assert cell.auroc == pytest.approx((1000 + 500.5 + 995.5 + 100.5) / 4000)


def test_a_background_too_small_for_a_rate_gives_no_figure() -> None:
    background = [make_sample(f"o {n / 200}", 0, f"b{n % 7}") for n in range(200)]
    attacks = [make_sample("a 2", 1, "f1")]
    cell = compare(
        attacks, background, weigh_by_number, against="x", kind="process", seed=1, rounds=20
    )
    assert cell.rates[0].texts is None
    assert cell.rates[1].texts is not None


def test_documentation_is_no_real_background() -> None:
    samples = [make_sample("o 1", 0, "b"), make_sample("o 2", 0, "b", source="tldr", real=False)]
    assert len(pick_background(samples, "process", "windows", strict=True)) == 1
    assert len(pick_background(samples, "process", "windows", strict=True, real=False)) == 2
    assert not pick_background(samples, "process", "linux", strict=True)


def test_cells_tell_what_is_new_to_training_apart() -> None:
    background = [make_sample(f"o {n}", 0, f"b{n % 5}", strict=n % 2 == 0) for n in range(20)]
    attacks = [make_sample(f"a {30 + n}", 1, f"f{n}", strict=n < 6) for n in range(10)]
    cells = measure_cells(
        Samples(attacks, background, {}, [], []), weigh_by_number, seed=1, rounds=20
    )
    assert [(c.against, c.attacks, c.background) for c in cells] == [
        ("new to training", 6, 10),
        ("whole stream", 10, 20),
    ]
    assert all(cell.auroc == 1.0 for cell in cells)
    strict = Samples(attacks[:6], background[::2], {}, [], [])
    assert len(measure_cells(strict, weigh_by_number, seed=1, rounds=20)) == 1


def test_calibration_error_is_the_mean_distance_of_the_bins() -> None:
    labels = np.array([1, 1, 1, 0, 0, 0, 0, 0])
    chances = np.array([0.95, 0.95, 0.95, 0.95, 0.05, 0.05, 0.05, 0.05])
    found = measure_calibration("test", labels, chances)
    assert found.counts == [4, 0, 0, 0, 0, 0, 0, 0, 0, 4]
    assert found.error == pytest.approx(0.5 * 0.05 + 0.5 * 0.2)
    assert found.attacks[9] == 0.75
    with pytest.raises(ValueError, match="nothing"):
        measure_calibration("test", labels[:0], chances[:0])


def test_parity_is_over_rows_that_all_scored() -> None:
    rows = [
        Example(f"t {n}", "process", n % 2, "s", f"g{n}", "x", "windows", split="test")
        for n in range(40)
    ]
    rows.append(Example("t 40", "process", 1, "s", "g", "x", "windows", split="train"))
    half = np.array([float(row.label or 0) for row in rows])
    half[:4] = math.nan
    found = measure_parity(rows, [Rival("other", half)], weigh_by_number, seed=1, rounds=20)
    assert [row.kind for row in found] == ["all", "process windows"]
    assert (found[0].attacks, found[0].ordinary) == (18, 18)
    assert found[0].auroc["other"] == 1.0
    assert found[0].auroc["shipped"] == pytest.approx(0.5, abs=0.1)


def test_scores_of_other_rows_are_not_taken(tmp_path: Path) -> None:
    splits: tuple[Split, ...] = ("train", "valid", "test", "test")
    rows = [
        Example(f"t {n}", "process", n % 2, "s", f"g{n}", "x", "windows", split=split)
        for n, split in enumerate(splits)
    ]
    for places, names in (([1, 2, 3], ["float student"]), ([0, 1, 2, 3], []), ([1, 2], [])):
        np.savez(tmp_path / "student.scores.npz", rows=places, logits=np.zeros(len(places)))
        assert [rival.name for rival in read_rivals(tmp_path, rows)] == names


# -- budgets --------------------------------------------------------------------------------------


def test_tail_threshold_is_an_order_statistic_where_there_are_enough() -> None:
    logits = np.arange(1000, dtype=np.float64)
    limit = find_tail_threshold(logits, 0.05)
    assert int((logits > limit).sum()) == 50


def test_tail_threshold_goes_beyond_what_was_seen() -> None:
    logits = np.random.default_rng(1).exponential(1.0, 2000)
    # The score that a share q of an exponential distribution is over is -ln q.
    for rate in (1e-3, 1e-4, 1e-5):
        assert find_tail_threshold(logits, rate) == pytest.approx(-math.log(rate), rel=0.25)
    with pytest.raises(ValueError, match="too few"):
        find_tail_threshold(logits[:10], 0.1)


def test_thresholds_fall_as_budgets_rise() -> None:
    logits = np.random.default_rng(2).normal(-4, 2, 3000)
    found = choose_thresholds(logits, 2000, 1.0)
    assert list(found) == list(BUDGETS)
    values = list(found.values())
    assert values == sorted(values, reverse=True)
    assert all(0 < value < 1 for value in values)
    over = (squash(logits) > found["50"]).mean()
    assert over == pytest.approx(50 / 2000, abs=0.001)


def test_a_kind_with_texts_enough_has_thresholds_of_its_own() -> None:
    draw = np.random.default_rng(2).normal
    logits = {"process": draw(-6, 1, 500), "script": draw(0, 1, 400), "pipe": draw(-2, 1, 900)}
    others, found = choose_kinds({**logits, "url": draw(9, 1, 20)})
    assert list(found) == ["process", "script"]  # too few URLs, and pipes are no kind of their own
    for kind in found:
        texts, share = DAYS[kind]
        over = (squash(logits[kind]) > found[kind]["50"]).mean()
        assert over == pytest.approx(50 * share / texts, abs=0.003), kind
    rest = np.concatenate([logits["pipe"], draw(9, 1, 20)])
    assert (squash(rest) > others["50"]).mean() == pytest.approx(50 * 0.25 / 600, abs=0.006)
    with pytest.raises(ValueError, match="no ordinary"):
        choose_kinds({})


def test_thresholds_are_written_into_heads_that_the_product_loads(tmp_path: Path) -> None:
    model = write_sentinel(tmp_path)
    before = load_file(tmp_path / SENTINEL_HEADS)
    thresholds = {"1": 0.9, "10": 0.5}
    write_thresholds(tmp_path, thresholds, {"dns": {"1": 0.99, "10": 0.8}})
    after = load_file(tmp_path / SENTINEL_HEADS)
    assert all((before[name] == after[name]).all() for name in before)
    assert set(before) == set(after)
    heads = Heads.parse((tmp_path / SENTINEL_HEADS).read_bytes(), "heads")
    assert heads.about.thresholds == thresholds
    assert heads.find_threshold("process", 1.0) == 0.9
    assert heads.find_threshold("dns", 10.0) == 0.8
    about = verify_sentinel(model)
    raw = (tmp_path / SENTINEL_HEADS).read_bytes()
    assert about.files[SENTINEL_HEADS] == hashlib.sha256(raw).hexdigest()


def test_thresholds_that_rise_with_the_budget_are_refused(tmp_path: Path) -> None:
    write_sentinel(tmp_path)
    before = (tmp_path / SENTINEL_HEADS).read_bytes()
    with pytest.raises(ModelError):
        write_thresholds(tmp_path, {"1": 0.5, "10": 0.9}, {})
    assert (tmp_path / SENTINEL_HEADS).read_bytes() == before


def test_findings_are_counted_by_event_and_by_text() -> None:
    capture = make_file("c", ["p 0.9", "p 0.9", "p 0.1", "p 0.2", "attack 5"])
    ordinary = {("process", "p 0.9"), ("process", "p 0.1"), ("process", "p 0.2")}
    background = gather_background([capture], ordinary)
    assert (len(background.texts), len(background.events), background.left_out) == (3, 4, 1)
    limit = float(squash(np.array([0.5]))[0])
    (found,) = count_findings(background, weigh_by_number, [("2", limit, {})])
    assert (found.texts.hits, found.texts.total) == (1, 3)
    assert (found.events.hits, found.events.total, found.per_10_000) == (2, 4, 5000.0)
    assert found.per_active_day == pytest.approx(2 / (40 / 86400))
    (own,) = count_findings(background, weigh_by_number, [("2", limit, {"process": 0.99})])
    assert own.events.hits == 0
    assert find_event_threshold(background, weigh_by_number, 5000.0) == 0.2
    assert count_over(background, weigh_by_number, 0.2).hits == 2
    assert find_event_threshold(background, weigh_by_number, 0.0) == 0.9


def test_silence_is_no_time_observed() -> None:
    capture = make_file("c", ["p 1", "p 2"])
    capture.events.append(ReadEvent([("process", "p 3")], "h1", 1010.0 + 4 * 3600))
    capture.events.append(ReadEvent([("process", "p 3")], "h2", 1010.0))
    seen = measure_time([capture])
    assert (seen.captures, seen.hosts) == (1, 2)
    assert seen.active_days * 86400 == pytest.approx(10)
    assert seen.span_days * 86400 == pytest.approx(10 + 4 * 3600)


# -- files, techniques, evasion -------------------------------------------------------------------


def test_files_without_a_rule_are_told_apart() -> None:
    files = [
        make_file("seen", ["a 9", "o 1"], rules=1),
        make_file("blind", ["o 9"]),
        make_file("quiet", ["o 1"]),
        make_file("unreadable", []),
    ]
    attacks = {"seen": {("process", "a 9")}, "quiet": {("process", "o 1")}}
    (found,) = measure_files(files, attacks, weigh_by_number, [Limit("x", 5.0)])
    assert (found.by_attack.hits, found.by_attack.total) == (1, 2)
    assert (found.by_any.hits, found.by_any.total) == (2, 3)
    assert (found.of_all.hits, found.of_all.total) == (2, 4)
    assert (found.blind_by_any.hits, found.blind_by_any.total) == (1, 2)
    assert (found.blind_of_all.hits, found.blind_of_all.total) == (1, 3)
    assert (found.rules_or_sentinel.hits, found.rules_or_sentinel.total) == (2, 4)
    (own,) = measure_files(files, attacks, weigh_by_number, [Limit("x", 5.0, {"process": 10.0})])
    assert own.of_all.hits == 0
    assert pick_commands(files, attacks, 10) == [{"CommandLine": "a 9"}, {"CommandLine": "o 1"}]


def test_techniques_are_summed_into_parents() -> None:
    names = ("T1059.001", "T1059.003", "T1003")
    zeros = np.zeros((1, 2), np.float32)
    tensors = {
        "malicious.weight": zeros,
        "malicious.bias": zeros[0, :1],
        "technique.weight": np.array([[2.0, 0.0], [2.0, 0.0], [2.5, 0.0]], np.float32),
        "technique.bias": np.zeros(3, np.float32),
        "tactic.weight": zeros,
        "tactic.bias": zeros[0, :1],
        "project.weight": np.zeros((384, 2), np.float32),
    }
    heads = Heads(tensors, About(names, ("execution",), {"1": 0.5}))
    guesser = Guesser(heads, None)
    vectors = np.array([[1.0, 0.0]], np.float32)
    assert guesser.rank(["a 1"], vectors, np.array([3.0])) == ["T1059", "T1003"]
    other = Guesser(heads, lambda _: np.array([0.0, 0.0, 9.0]))
    assert other.rank(["a 1"], vectors, np.array([3.0])) == ["T1003", "T1059"]

    def get_vectors(texts: Sequence[str]) -> NDArray[np.float32]:
        return np.repeat(vectors, len(texts), axis=0)

    files = [({"T1059"}, ["a 1"]), ({"T1003"}, ["a 1", "a 0"]), ({"T9999"}, ["a 1"])]
    files.append(({"T1059"}, ["a -1"]))  # nothing flagged: wrong
    found = measure_attribution(
        "x", files, guesser, weigh=weigh_by_number, get_vectors=get_vectors, limit=Limit("x", 0.5)
    )
    assert found[0].techniques == "all"
    assert (found[0].files, found[0].flagged) == (4, 3)
    assert (found[0].first.hits, found[0].among_five.hits) == (1, 2)


def test_names_of_files_tell_techniques() -> None:
    assert read_name("Credential Access/4794_DSRM_password_change_t1098.evtx") == {"T1098"}
    assert read_name("Privilege Escalation/Sysmon_UACME_45.evtx") == {"T1548"}
    assert read_name("Other/nothing_known.evtx") == set()


def test_metadata_of_captures_tells_parents(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "attack_mappings:\n- technique: T1003\n  sub-technique: '001'\n- technique: T1059\n"
        "files:\n- link: https://x/y/capture_one.zip\n"
    )
    assert read_mappings(tmp_path) == {"capture_one": {"T1003", "T1059"}}


def test_rewritings_change_what_they_say_and_nothing_else() -> None:
    command = "net.exe user evil /add /domain:corp"
    assert REWRITES["case"](command).lower() == command
    assert REWRITES["carets in words"](command).replace("^", "") == command
    assert REWRITES["quotes in words"](command).replace('""', "") == command
    assert REWRITES["double blanks"](command).replace("  ", " ") == command
    assert REWRITES["options reordered"](command) == "net.exe user evil /domain:corp /add"
    assert REWRITES["benign text in front"](command).endswith(command)
    assert REWRITES["benign text behind"](command).startswith(command)
    assert all(rewrite(command) != command for rewrite in REWRITES.values())


def test_evasion_asks_the_masked_text() -> None:
    raws = [{"CommandLine": "C:\\x\\evil.exe /a secret /b", "Image": "C:\\x\\evil.exe"}]
    asked: list[str] = []

    def weigh(texts: Sequence[str]) -> NDArray[np.float64]:
        asked.extend(texts)
        return np.array([1.0 if "secret" in text else -1.0 for text in texts])

    found = {row.rewrite: row for row in measure_evasion(raws, weigh, 0.0)}
    # What masking undoes is no evasion; what it does not know is.
    for name in ("case", "carets in words", "quotes in words", "look-alike letters"):
        assert (found[name].before.hits, found[name].after.hits) == (1, 1), name
    assert found["look-alike letters, unknown to masking"].after.hits == 0
    assert set(asked) <= set(list_rewritten(raws))


# -- the whole ------------------------------------------------------------------------------------


def write_work(work: Path) -> None:
    """A work folder with a random model and examples of both labels in every split."""
    write_sentinel(work, scale=4.0, ngrams=True)
    rows = []
    for split in ("train", "valid", "test"):
        for n in range(90):
            label = n % 2
            words = (_ATTACKS if label else _ORDINARY)[n % 3]
            source = "evtx-attack-samples" if label and split == "test" else "security-datasets"
            if not label and split == "valid":
                source = "life:x.yaml:group"
            own = Example(
                f"process {words} {split} {n}", "process", label, source, f"g{n % 9}", "sysmon1",
                "windows", split=split, attack_event=bool(label),
            )  # fmt: skip
            rows.append(own)
    write_rows(work / "examples.jsonl", rows)


def test_whole_stage_over_a_random_model(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    write_work(work)
    options = Options(tmp_path / "no-data", work, small=True)
    results = evaluate(options)
    written = json.loads((work / RESULTS_FILE).read_bytes())
    assert written["thresholds"]["scores"] == results["thresholds"]["scores"]
    heads = Heads.parse((work / SENTINEL_HEADS).read_bytes(), "heads")
    assert heads.about.thresholds == results["thresholds"]["scores"]
    # The figures are those of the product's own scores, counted plainly.
    samples = gather_samples(work, small=True)
    scorer = Scorer.open(work)
    assert scorer.learn(s.text for s in (*samples.attacks, *samples.background)) == 0  # kept
    ours = scorer.weigh([sample.text for sample in samples.attacks])
    theirs = scorer.weigh([sample.text for sample in samples.background])
    pairs = [(a > o) + 0.5 * (a == o) for a in ours for o in theirs]
    (cell,) = [c for c in results["cells"] if c["against"] == "new to training"]
    assert (cell["attacks"], cell["background"], cell["groups"]) == (45, 45, 9)
    assert cell["auroc"] == pytest.approx(sum(pairs) / len(pairs))
    card = (work / "README.md").read_text()
    assert f"{cell['auroc']:.3f}" in card
    assert "small run" in card
    with pytest.raises(ValueError, match="small run"):
        ship_model(work, tmp_path)


def test_only_what_was_measured_is_shipped(tmp_path: Path) -> None:
    work, folder = tmp_path / "work", tmp_path / "shipped"
    work.mkdir()
    folder.mkdir()
    write_work(work)
    results = evaluate(Options(tmp_path / "no-data", work, small=True))
    results["small"] = False
    (work / RESULTS_FILE).write_text(json.dumps(results))
    names = ship_model(work, folder)
    assert names[-1] == SENTINEL_MANIFEST
    assert verify_sentinel(folder / "sentinel.gguf").dims == 129
    shutil.copy(work / SENTINEL_MANIFEST, work / "old.json")
    write_thresholds(work, {"1": 0.5}, {})
    shutil.copy(work / "old.json", work / SENTINEL_MANIFEST)
    with pytest.raises(ModelError):
        ship_model(work, folder)


def test_scores_are_kept_for_the_same_model_only(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    kept = tmp_path / "kept.npz"
    scorer = Scorer(write_sentinel(first), kept)
    assert scorer.learn(["process : one", "process : two", "process : one"]) == 2
    again = Scorer(first / "sentinel.gguf", kept)
    assert again.learn(["process : one"]) == 0
    assert (again.weigh(["process : two"]) == scorer.weigh(["process : two"])).all()
    other = Scorer(write_sentinel(second, seed=8), kept)
    assert other.learn(["process : one"]) == 1
    assert other.weigh(["process : one"])[0] != scorer.weigh(["process : one"])[0]


def test_probability_and_log_odds_are_inverse() -> None:
    for value in (0.001, 0.5, 0.999999):
        assert squash(np.array([unsquash(value)]))[0] == pytest.approx(value)
