"""The sentinel's place beside the line (detect stage): it never holds up the rules.

`Candidate`s are events with texts that were not known to be ordinary. In `scan` the line waits for
them (`WaitingSentinel`). In `run` (`QueuedSentinel`) a text that was scored before is answered at
once; the others wait in one bounded queue, a thread has them scored, and what comes of it joins a
later batch. What finds the queue full is skipped and counted. Counts go into the batch's own
transaction: `queued` less `judged` less `failed` less what waits now is what a crash left unjudged.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final, Protocol

import msgspec

from appliance.detect.sentinel.cache import Memory, key_text
from appliance.detect.sentinel.examine import Examiner
from appliance.detect.sentinel.texts import Text
from appliance.errors import ModelUnavailable
from appliance.schema import Detection, Event, Opinion, RuleInfo

#: Candidates scored in one go.
CHUNK: Final = 64
#: Opinions on texts over the threshold that are remembered.
MAX_OPINIONS: Final = 2000
#: Seconds between two tries while the model is down, and that it is waited for.
RETRY_SECONDS: Final = 0.5
#: Seconds between two looks at a model that has nothing to do.
TEND_SECONDS: Final = 2.0
#: Seconds after which answers that found nothing are counted by a batch of their own.
SETTLE_SECONDS: Final = 1.0
#: Tries of a candidate at which a loaded model failed.
MOST_TRIES: Final = 2
#: Texts of hosts of which it is remembered that they were told.
MAX_TOLD: Final = 50_000
#: What an event in the queue is taken to weigh beside its record, in bytes.
EVENT_BYTES: Final = 4096
#: Seconds that `scan` waits for a model that is down.
PATIENCE_SECONDS: Final = 30.0


class Candidate(msgspec.Struct, frozen=True):
    """An event to be judged: its texts, and the rules that fired on it."""

    event: Event
    texts: tuple[Text, ...]
    rules: tuple[str, ...] = ()


class Joined(msgspec.Struct, frozen=True):
    """What the sentinel adds to a batch."""

    detections: list[Detection]
    counts: Mapping[str, int]


class Sentinel(Protocol):
    """What the line needs of it. One thread calls `join`, `commit` and `rollback`."""

    @property
    def rules(self) -> Mapping[str, RuleInfo]:
        """The pseudo-rules of its findings, by id."""
        ...

    def is_quiet(self, text: Text) -> bool:
        """Whether the text was scored before, under its threshold."""
        ...

    def join(self, candidates: Sequence[Candidate]) -> Joined:
        """Take candidates; give what is known of them and of earlier ones. Pending until `commit`
        or `rollback`."""
        ...

    def commit(self) -> None:
        """What was joined is stored."""
        ...

    def rollback(self) -> None:
        """What was joined is not stored: the candidates come again, the answers stay."""
        ...


class _Answer(msgspec.Struct):
    """What came of a candidate."""

    detections: list[Detection]
    failed: bool = False


class Recall:
    """What is known of texts: scores by text, and the opinions on those over the threshold."""

    def __init__(self, examiner: Examiner, cap: int) -> None:
        self.examiner = examiner
        self.scores: Memory[float] = Memory(cap)
        self._opinions: Memory[Opinion] = Memory(min(cap, MAX_OPINIONS))

    def is_quiet(self, text: Text) -> bool:
        """Whether the text was scored, under its threshold."""
        score = self.scores.get(key_text(text))
        return score is not None and score <= self.examiner.find_threshold(text.kind)

    def find_quiet(self, asked: Mapping[bytes, str]) -> list[bytes]:
        """Those of the keys (with their texts' kinds) that were scored under the threshold."""
        found = ((key, kind, self.scores.get(key)) for key, kind in asked.items())
        return [
            key
            for key, kind, score in found
            if score is not None and score <= self.examiner.find_threshold(kind)
        ]

    def look_up(self, texts: Iterable[Text]) -> list[Opinion] | None:
        """The opinions on these texts; None when one of them is still to be scored."""
        opinions: list[Opinion] = []
        for text in texts:
            key = key_text(text)
            score = self.scores.get(key)
            if score is None:
                return None
            if score > self.examiner.find_threshold(text.kind):
                opinion = self._opinions.get(key)
                if opinion is None:
                    return None
                opinions.append(opinion)
        return opinions

    def judge(self, candidates: Sequence[Candidate]) -> list[list[Detection]]:
        """The detections of each candidate, all unknown texts scored together. Raises
        ModelUnavailable."""
        # What is known is kept here: memory may be smaller than what is about to be scored.
        opinions: dict[Text, list[Opinion]] = {}
        unknown: dict[Text, None] = {}
        for candidate in candidates:
            for text in candidate.texts:
                if text in opinions or text in unknown:
                    continue
                known = self.look_up((text,))
                if known is None:
                    unknown[text] = None
                else:
                    opinions[text] = known
        fresh = list(unknown)
        for text, result in zip(fresh, self.examiner.examine(fresh), strict=True):
            key = key_text(text)
            opinions[text] = [] if result.opinion is None else [result.opinion]
            if result.opinion is not None:
                self._opinions.put(key, result.opinion)
            self.scores.put(key, result.score)
        return [
            self.examiner.detect(
                candidate.event,
                [opinion for text in candidate.texts for opinion in opinions[text]],
                candidate.rules,
            )
            for candidate in candidates
        ]


class Told:
    """What was told of which host lately: the same text on the same host is one finding in
    `seconds` of event time (0: each is one), as the budget counts them. Bounded; a restart forgets
    it, and what comes then is told again. Changes are pending until `commit` or `rollback`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._times: Memory[float] = Memory(MAX_TOLD)
        self._pending: dict[bytes, float] = {}

    def sift(self, detections: Sequence[Detection]) -> list[Detection]:
        """Those that were not told yet."""
        if not self._seconds:
            return list(detections)
        fresh: list[Detection] = []
        for detection in detections:
            event, opinion = detection.event, detection.opinion
            text = Text(f"{event.host}\0{detection.rule_id}", opinion.text if opinion else "")
            key = key_text(text)
            told = self._pending.get(key, self._times.get(key))
            if told is not None and abs(event.time - told) < self._seconds:
                continue
            self._pending[key] = event.time
            fresh.append(detection)
        return fresh

    def commit(self) -> None:
        """What was sifted is stored."""
        for key, moment in self._pending.items():
            self._times.put(key, moment)
        self._pending = {}

    def rollback(self) -> None:
        """What was sifted comes again."""
        self._pending = {}


class WaitingSentinel:
    """The sentinel of `scan`: the line waits for it, so that the same files always give the same
    findings. `down_reason` says why it could not judge, when it could not."""

    def __init__(
        self,
        examiner: Examiner,
        cap: int,
        *,
        repeat_seconds: float = 0.0,
        patience: float = PATIENCE_SECONDS,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._recall = Recall(examiner, cap)
        self._embedder = examiner.embedder
        self._told = Told(repeat_seconds)
        self._patience = patience
        self._sleep = sleep
        self.rules = examiner.rules
        self.down_reason = ""
        self.failed = 0

    def is_quiet(self, text: Text) -> bool:
        """Whether the text was scored, under its threshold."""
        return self._recall.is_quiet(text)

    def join(self, candidates: Sequence[Candidate]) -> Joined:
        """Judge the candidates now."""
        counts: Counter[str] = Counter()
        detections: list[Detection] = []
        for first in range(0, len(candidates), CHUNK):
            chunk = candidates[first : first + CHUNK]
            for found in self._judge(chunk):
                counts["failed" if found is None else "judged"] += 1
                detections += found or []
        self.failed += counts["failed"]
        if candidates:
            counts["queued"] = len(candidates)
        fresh = self._told.sift(detections)
        counts["repeated"] = len(detections) - len(fresh)
        return Joined(fresh, {name: value for name, value in counts.items() if value})

    def commit(self) -> None:
        """What was joined is stored."""
        self._told.commit()

    def rollback(self) -> None:
        """What was joined is not stored."""
        self._told.rollback()

    def _judge(self, chunk: Sequence[Candidate]) -> list[list[Detection] | None]:
        """The detections of each; None where the model gave no answer."""
        tries = 1 if self.down_reason else max(1, round(self._patience / RETRY_SECONDS))
        for number in range(tries):
            try:
                found = self._recall.judge(chunk)
            except ModelUnavailable as error:
                self.down_reason = str(error)
                if number + 1 < tries:
                    self._sleep(RETRY_SECONDS)
            else:
                self.down_reason = ""
                return [*found]
            if len(chunk) > 1 and self._embedder.wait_ready(RETRY_SECONDS):
                # It failed at one of these: all others are to be judged.
                self.down_reason = ""
                return [self._judge((candidate,))[0] for candidate in chunk]
            if len(chunk) == 1 and number + 1 >= MOST_TRIES:
                break
        return [None] * len(chunk)


class QueuedSentinel:
    """The sentinel of `run`. `cap` texts' scores are remembered; at most `queue_cap` events of at
    most `queue_bytes` bytes wait. `wake` is called, from the sentinel's thread, when findings are
    there. `timer` counts seconds."""

    def __init__(
        self,
        examiner: Examiner,
        cap: int,
        *,
        queue_cap: int,
        queue_bytes: int,
        repeat_seconds: float = 0.0,
        wake: Callable[[], None] = lambda: None,
        timer: Callable[[], float] = time.monotonic,
        retry_seconds: float = RETRY_SECONDS,
        tend_seconds: float = TEND_SECONDS,
    ) -> None:
        self._recall = Recall(examiner, cap)
        self._embedder = examiner.embedder
        self._tend_seconds = tend_seconds
        self._told = Told(repeat_seconds)
        self._queue_cap = queue_cap
        self._queue_bytes = queue_bytes
        self._wake = wake
        self._timer = timer
        self._retry_seconds = retry_seconds
        self.rules = examiner.rules
        self._changed = threading.Condition()
        self._queue: deque[Candidate] = deque()
        self._bytes = 0
        self._answers: deque[_Answer] = deque()
        self._answered_at = 0.0
        self._staged: list[Candidate] = []
        self._taken = 0
        self._alone = 0  # so many candidates are tried one by one
        self._tries = 0
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._full = False
        self._busy = 0.0
        self.down_reason = ""

    def start(self) -> None:
        """Begin judging what waits."""
        self._thread = threading.Thread(target=self._work, name="sentinel", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop judging. Who closes the model before, need not wait for its answer."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(15)

    def is_quiet(self, text: Text) -> bool:
        """Whether the text was scored, under its threshold."""
        return self._recall.is_quiet(text)

    def find_quiet(self, asked: Mapping[bytes, str]) -> list[bytes]:
        """Those of the keys (with their texts' kinds) that were scored under the threshold."""
        return self._recall.find_quiet(asked)

    def join(self, candidates: Sequence[Candidate]) -> Joined:
        """Answers that have come, and what is known at once of these candidates; the rest waits,
        or is skipped. Pending until `commit` or `rollback`."""
        counts: Counter[str] = Counter()
        with self._changed:
            self._taken = len(self._answers)
            answers = list(self._answers)
            count, size = len(self._queue) + self._taken, self._bytes
        detections = [one for answer in answers for one in answer.detections]
        counts["judged"] = sum(not answer.failed for answer in answers)
        counts["failed"] = sum(answer.failed for answer in answers)
        self._staged = []
        for candidate in candidates:
            opinions = self._recall.look_up(candidate.texts)
            if opinions is not None:
                detections += self._recall.examiner.detect(
                    candidate.event, opinions, candidate.rules
                )
                counts["at_once"] += 1
                continue
            weight = _weigh(candidate)
            if count >= self._queue_cap or size + weight > self._queue_bytes:
                counts["skipped"] += 1
                continue
            self._staged.append(candidate)
            count, size = count + 1, size + weight
        counts["queued"] = len(self._staged)
        self._full = counts["skipped"] > 0 or (self._full and count * 2 > self._queue_cap)
        fresh = self._told.sift(detections)
        counts["repeated"] = len(detections) - len(fresh)
        return Joined(fresh, {name: value for name, value in counts.items() if value})

    def commit(self) -> None:
        """The staged candidates wait from now on; the answers that were taken are stored."""
        with self._changed:
            for _ in range(self._taken):
                self._answers.popleft()
            self._queue.extend(self._staged)
            self._bytes += sum(map(_weigh, self._staged))
            self._staged, self._taken = [], 0
            self._told.commit()
            self._changed.notify_all()

    def rollback(self) -> None:
        """The candidates come again; the answers are given again."""
        self._told.rollback()
        self._staged, self._taken = [], 0

    @property
    def ready(self) -> bool:
        """Whether there are answers worth a batch of their own: findings at once, others after a
        while, since each batch is synced to disk."""
        with self._changed:
            if not self._answers:
                return False
            found = any(answer.detections for answer in self._answers)
            return found or self._timer() - self._answered_at >= SETTLE_SECONDS

    @property
    def waiting(self) -> int:
        """Events whose judgement is not stored yet."""
        return len(self._queue) + len(self._answers)

    def wait_idle(self, timeout: float) -> bool:
        """Wait until nothing waits to be judged; False when it still does, or the model is down."""
        with self._changed:
            self._changed.wait_for(
                lambda: not self._queue or self._stopping or bool(self.down_reason), timeout
            )
            return not self._queue

    def hand_over(self) -> list[Candidate]:
        """Stop, and give what still waits to who takes this one's place."""
        with self._changed:
            self._stopping = True
            left = list(self._queue)
            self._queue.clear()
            self._bytes = 0
            self._changed.notify_all()
        return left

    def take_over(self, old: "QueuedSentinel") -> None:
        """Go on with what waited there, and with what it found. Those that were counted as queued
        there are not counted again."""
        left = old.hand_over()
        with self._changed:
            self._queue.extendleft(reversed(left))
            self._bytes += sum(map(_weigh, left))
            self._answers.extend(old._answers)
            self._told = old._told

    def describe(self) -> dict[str, Any]:
        """Facts for `status`: the queue, the cache, how fast it is, what is wrong."""
        scores, encoded = self._recall.scores, self._recall.examiner.encoded
        return {
            "waiting": self.waiting,
            "queue": len(self._queue),
            "queue_cap": self._queue_cap,
            "queue_bytes": self._bytes,
            "full": self._full,
            "cache": len(scores),
            "cache_cap": scores.cap,
            "scored": encoded,
            "per_second": round(encoded / self._busy, 1) if self._busy else 0.0,
            "down": self.down_reason,
        }

    # -- in the sentinel's thread ----------------------------------------------------------------

    def _work(self) -> None:
        while chunk := self._next_chunk():
            began = self._timer()
            try:
                if not self._embedder.wait_ready(1.0):
                    raise _NotReadyError
                found = self._recall.judge(chunk)
            except _NotReadyError:
                self._pause("the model is not loaded")
            except ModelUnavailable as error:
                self._note_failure(chunk, str(error) or "no answer")
            except Exception as error:  # one text's fault must not end every text's judgement
                self._note_failure(chunk, f"fault: {type(error).__name__}: {error}")
            else:
                self._busy += self._timer() - began
                self._note_answers([_Answer(each) for each in found])

    def _next_chunk(self) -> list[Candidate]:
        """What is judged next; nothing when it is time to stop."""
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: bool(self._queue) or self._stopping, self._tend_seconds
                )
                if self._stopping:
                    return []
                if self._queue:
                    return list(islice(self._queue, 1 if self._alone else CHUNK))
            # A model that died while nobody asked it anything is started again.
            self._embedder.wait_ready(0.0)

    def _note_answers(self, answers: list[_Answer]) -> None:
        with self._changed:
            if self._stopping and len(self._queue) < len(answers):
                return  # handed over meanwhile: judged again there
            for answer in answers:
                self._bytes -= _weigh(self._queue.popleft())
                if not self._answers:
                    self._answered_at = self._timer()
                self._answers.append(answer)
            self._alone = max(0, self._alone - len(answers))
            self._tries = 0
            self.down_reason = ""
            self._changed.notify_all()
        if any(answer.detections for answer in answers):
            self._wake()

    def _note_failure(self, chunk: list[Candidate], reason: str) -> None:
        """A model that was loaded failed at these: each is tried alone, and left out when it fails
        at that one again, lest one text hold up all others for ever."""
        if len(chunk) > 1:
            self._alone = len(chunk)
        elif self._tries + 1 >= MOST_TRIES:
            self._note_answers([_Answer([], failed=True)])
        else:
            self._tries += 1
        self._pause(reason)

    def _pause(self, reason: str) -> None:
        with self._changed:
            self.down_reason = reason
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._stopping, self._retry_seconds)


class _NotReadyError(Exception):
    """The model is not loaded: nobody's fault."""


def _weigh(candidate: Candidate) -> int:
    texts = sum(len(text.text) for text in candidate.texts)
    return EVENT_BYTES + len(candidate.event.record.data) + texts
