"""What usually comes next: counted by hand on a small base, read from a real file of a base."""

from pathlib import Path

import msgspec
import pytest

from appliance.knowledge.base import KnowledgeBase
from appliance.knowledge.entries import Item, Link
from appliance.knowledge.procedures import Procedures
from tests.knowledge_samples import LetterEncoder, build_sample, make_entry

ORIGIN = "Test ATT&CK"
LATER = ("execution", "lateral-movement", "exfiltration", "impact")


def make_uses(user: str, *techniques: str) -> list[Item]:
    kind = {"C": "campaign", "G": "group", "S": "software"}[user[0]]
    made: list[Item] = [make_entry(user, f"About {user}", type=kind, tactics=())]
    return made + [Link(user, "uses", technique, ORIGIN, "It does.") for technique in techniques]


def make_techniques() -> list[Item]:
    stages = {
        "T1000": "reconnaissance", "T1001": "initial-access", "T1002": "execution",
        "T1010": "lateral-movement", "T1010.001": "lateral-movement",
        "T1010.002": "lateral-movement", "T1020": "exfiltration", "T1030": "impact",
    }  # fmt: skip
    return [make_entry(name, f"Name {name}", tactics=(stage,)) for name, stage in stages.items()]


def make_items() -> list[Item]:
    return [
        *make_techniques(),
        make_entry("T0902", "Old", revoked=True, revoked_by="T1002"),
        make_entry("T1040", "Gone", deprecated=True, tactics=("impact",)),
        *make_uses("C0001", "T1001", "T0902", "T1010.001", "T1020", "T1040"),
        *make_uses("C0002", "T1001", "T1002", "T1010.001", "T1040"),
        *make_uses("G0001", "T1001", "T1002", "T1030", "T1020"),
        *make_uses("S0001", "T1030"),
        *make_uses("S0002", "T1002", "T1020"),
        *make_uses("S0003", "T1000"),
    ]


def open_base(folder: Path, items: list[Item]) -> KnowledgeBase:
    build_sample(folder, items)
    return KnowledgeBase.open(folder, LetterEncoder.model_hash)


def test_small_base_by_hand(tmp_path: Path) -> None:
    procedures = Procedures(open_base(tmp_path, make_items()))
    steps = procedures.next_steps(["T1001", "T1002"], LATER, 10)
    # C0001, C0002, G0001 use both and S0002 one of them (three are fewer than ten): of these four,
    # that weigh 1 + 1 + 1 + 0.3, T1020 is used by C0001, G0001, S0002; all six weigh 3.9.
    assert [(step.technique, step.share, step.of) for step in steps] == [
        ("T1020", 3 / 4, 4),
        ("T1010.001", 2 / 4, 4),
    ]
    assert steps[0].lift == pytest.approx((2.3 + 2 * 2.3 / 3.9) / (3.3 + 2) / (2.3 / 3.9))
    assert steps[1].lift == pytest.approx((2 + 2 * 2 / 3.9) / (3.3 + 2) / (2 / 3.9))
    assert steps[0].cites == ("T1020", "C0001", "G0001", "S0002")
    assert (steps[1].name, steps[1].tactic) == ("Name T1010.001", "lateral-movement")
    assert (steps[0].sources, steps[0].rules) == ((), ())


def test_old_id_and_order_of_what_was_seen_change_nothing(tmp_path: Path) -> None:
    procedures = Procedures(open_base(tmp_path, make_items()))
    expected = procedures.next_steps(["T1001", "T1002"], LATER, 10)
    assert procedures.next_steps(["T0902", "T1001"], LATER, 10) == expected
    assert procedures.tactics("T0902") == ("execution",)
    assert procedures.tactics("T1040") == ()


def test_seen_technique_hides_its_family(tmp_path: Path) -> None:
    procedures = Procedures(open_base(tmp_path, make_items()))
    for seen in ("T1010", "T1010.001", "T1010.002"):
        steps = procedures.next_steps(["T1001", "T1002", seen], LATER, 10)
        assert [step.technique for step in steps] == ["T1020"]


def test_technique_stands_for_subtechniques_that_differ(tmp_path: Path) -> None:
    items = [
        *make_techniques(),
        *make_uses("C0001", "T1001", "T1010.001"),
        *make_uses("C0002", "T1001", "T1010.001"),
        *make_uses("C0003", "T1001", "T1010.002"),
        *make_uses("C0004", "T1001", "T1010.002"),
    ]
    (step,) = Procedures(open_base(tmp_path, items)).next_steps(["T1001"], LATER, 10)
    assert (step.technique, step.share, step.of) == ("T1010", 1.0, 4)


def test_only_wanted_stages_and_no_more_than_asked(tmp_path: Path) -> None:
    procedures = Procedures(open_base(tmp_path, make_items()))
    (step,) = procedures.next_steps(["T1001", "T1002"], ("impact", "exfiltration"), 10)
    assert step.technique == "T1020"
    assert len(procedures.next_steps(["T1001", "T1002"], LATER, 1)) == 1
    assert procedures.next_steps(["T1001", "T1002"], LATER, 0) == []
    assert procedures.next_steps(["T1001", "T1002"], (), 10) == []


def test_left_out_procedure_does_not_count(tmp_path: Path) -> None:
    procedures = Procedures(open_base(tmp_path, make_items()))
    (step,) = procedures.next_steps(["T1001", "T1002"], LATER, 10, without=["C0001"])
    assert (step.technique, step.share, step.of) == ("T1020", 2 / 3, 3)
    assert step.cites == ("T1020", "G0001", "S0002")


def test_few_procedures_say_nothing(tmp_path: Path) -> None:
    items = [
        *make_techniques(),
        *make_uses("C0001", "T1001", "T1020"),
        *make_uses("C0002", "T1001", "T1020"),
        *make_uses("S0003", "T1000"),
    ]
    assert Procedures(open_base(tmp_path, items)).next_steps(["T1001"], LATER, 10) == []


def test_matrices_stay_apart(tmp_path: Path) -> None:
    items = [
        *make_techniques(),
        make_entry("T0801", "Watch it", tactics=("collection",)),
        make_entry("T0802", "Stop it", tactics=("impair-process-control",)),
        *(item for n in (1, 2, 3) for item in make_uses(f"C000{n}", "T0801", "T0802")),
        *(item for n in (4, 5, 6) for item in make_uses(f"C000{n}", "T1001", "T1020")),
    ]
    procedures = Procedures(open_base(tmp_path, items))
    stages = (*LATER, "impair-process-control")
    (step,) = procedures.next_steps(["T0801"], stages, 10)
    # All procedures of the matrix use both: as usual as can be.
    assert (step.technique, step.tactic, step.of) == ("T0802", "impair-process-control", 3)
    assert step.lift == pytest.approx(1.0)
    both = procedures.next_steps(["T0801", "T1001"], stages, 10)
    assert [step.technique for step in both] == ["T0802", "T1020"]


def test_base_without_procedures_is_no_fault(tmp_path: Path) -> None:
    procedures = Procedures(open_base(tmp_path, make_techniques()))
    assert procedures.next_steps(["T1001"], LATER, 10) == []
    assert procedures.tactics("T1001") == ("initial-access",)
    assert procedures.next_steps(["T9999", "", "\ud800", "T1001\n"], LATER, 10) == []


def test_guess_by_base_rate_looks_at_nothing(tmp_path: Path) -> None:
    procedures = Procedures(open_base(tmp_path, make_items()))
    steps = procedures.usual_steps(["T1001", "T1002"], LATER, 10)
    assert [(step.technique, step.of) for step in steps] == [
        ("T1020", 6), ("T1010.001", 6), ("T1030", 6),
    ]  # fmt: skip
    assert all(step.lift == pytest.approx(1.0) for step in steps)


def test_nothing_is_read_before_the_first_question() -> None:
    class Unreadable:
        def __getattr__(self, name: str) -> object:
            raise AssertionError(name)

    Procedures(Unreadable())  # type: ignore[arg-type]


def test_steps_can_be_written(tmp_path: Path) -> None:
    steps = Procedures(open_base(tmp_path, make_items())).next_steps(["T1001"], LATER, 10)
    assert steps
    assert msgspec.json.decode(msgspec.json.encode(steps))[0]["technique"] == steps[0].technique
