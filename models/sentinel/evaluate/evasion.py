"""Stage `evaluate`, evasion: the raw commands of the test's attacks, rewritten as somebody would
who knows of the sentinel, and read again through the product's own masking.

Most rewritings leave a command doing what it did; padded ones run something harmless beside it,
and look-alike letters only serve where the name is the attacker's to choose.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from appliance.detect.sentinel.texts import write_texts
from models.sentinel.evaluate.figures import Share, share

_FRONT: Final = (
    "cmd.exe /c echo Windows Update is checking for available definition updates, please wait & "
)
_BEHIND: Final = (
    " & rem Microsoft Office Click-to-Run scheduled maintenance of the accounting department"
)
#: ASCII letters with Cyrillic ones that look like them, and some of full width.
_LOOKALIKE: Final = str.maketrans("aeopcx", "\u0430\u0435\u043e\u0440\u0441\u0445")
#: Letters that the product's masking does not know as look-alikes.
_FAR_LOOKALIKE: Final = str.maketrans("sdhgl", "\u0282\u0501\u04bb\u0261\u04cf")


def change_case(command: str) -> str:
    """Every second letter a capital one."""
    return "".join(c.upper() if at % 2 else c.lower() for at, c in enumerate(command))


def put_carets(command: str) -> str:
    """A caret into each word of four letters or more."""
    return _change_words(command, lambda word: f"{word[:2]}^{word[2:]}")


def put_quotes(command: str) -> str:
    """An empty pair of quotes into each word of four letters or more."""
    return _change_words(command, lambda word: f'{word[:2]}""{word[2:]}')


def _change_words(command: str, change: Callable[[str], str]) -> str:
    return " ".join(
        change(word) if len(word) >= 4 and word[:4].isalnum() else word
        for word in command.split(" ")
    )


def use_lookalikes(command: str) -> str:
    """Cyrillic letters for six Latin ones."""
    return command.translate(_LOOKALIKE)


def use_far_lookalikes(command: str) -> str:
    """Letters of which masking knows nothing, for five Latin ones."""
    return command.translate(_FAR_LOOKALIKE)


def pad_front(command: str) -> str:
    """A harmless command in front."""
    return _FRONT + command


def pad_behind(command: str) -> str:
    """A harmless remark behind."""
    return command + _BEHIND


def reorder_options(command: str) -> str:
    """The options in the opposite order, each with what belongs to it."""
    words = command.split(" ")
    starts = [at for at, word in enumerate(words) if at and word[:1] in "-/" and len(word) > 1]
    if len(starts) < 2:
        return command
    ends = [*starts[1:], len(words)]
    parts = [words[start:end] for start, end in zip(starts, ends, strict=True)]
    return " ".join([*words[: starts[0]], *(word for part in reversed(parts) for word in part)])


def double_blanks(command: str) -> str:
    """Two blanks for one."""
    return command.replace(" ", "  ")


#: Every rewriting by its name in the table.
REWRITES: Final[dict[str, Callable[[str], str]]] = {
    "case": change_case,
    "carets in words": put_carets,
    "quotes in words": put_quotes,
    "look-alike letters": use_lookalikes,
    "look-alike letters, unknown to masking": use_far_lookalikes,
    "benign text in front": pad_front,
    "benign text behind": pad_behind,
    "options reordered": reorder_options,
    "double blanks": double_blanks,
}


class Evaded(msgspec.Struct, frozen=True):
    """One rewriting: commands that it changed, and of these the share flagged as they were and
    rewritten."""

    rewrite: str
    commands: int
    before: Share
    after: Share


def write_command(raw: Mapping[str, str], command: str) -> list[str]:
    """The texts of a process start with this command line."""
    return [text.text for text in write_texts("process", {**raw, "CommandLine": command})]


def list_rewritten(raws: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """All texts that `measure_evasion` will ask about."""
    for raw in raws:
        command = raw["CommandLine"]
        for changed in (command, *(rewrite(command) for rewrite in REWRITES.values())):
            yield from write_command(raw, changed)


def measure_evasion(
    raws: Sequence[Mapping[str, str]],
    weigh: Callable[[Sequence[str]], NDArray[np.float64]],
    limit: float,
) -> list[Evaded]:
    """Each rewriting over the commands that it changes, at one threshold (log-odds). `raws` are
    raw fields of process starts, each with a CommandLine."""

    def is_flagged(raw: Mapping[str, str], command: str) -> bool:
        return bool((weigh(write_command(raw, command)) > limit).any())

    plain = [is_flagged(raw, raw["CommandLine"]) for raw in raws]
    found = []
    for name, rewrite in REWRITES.items():
        before = after = count = 0
        for raw, was in zip(raws, plain, strict=True):
            command = rewrite(raw["CommandLine"])
            if command != raw["CommandLine"]:
                count += 1
                before += was
                after += is_flagged(raw, command)
        found.append(Evaded(name, count, share(before, count), share(after, count)))
    return found
