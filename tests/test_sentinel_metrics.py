"""The figures of the model card: against figures worked out by hand and the slow way."""

import numpy as np
import pytest

from appliance.sentinel_metrics import (
    find_threshold,
    measure_auroc,
    measure_kinds,
    measure_recall,
    render_markdown,
    render_rows,
)


def test_auroc_by_hand_and_by_all_pairs() -> None:
    assert measure_auroc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]) == 0.75
    assert measure_auroc([1, 0], [0.5, 0.5]) == 0.5  # equal scores count half
    assert measure_auroc([1, 1], [0.1, 0.2]) is None
    rng = np.random.default_rng(3)
    labels, scores = rng.integers(0, 2, 300), rng.integers(0, 20, 300)
    pairs = [
        1.0 if a > o else 0.5 if a == o else 0.0
        for a in scores[labels == 1]
        for o in scores[labels == 0]
    ]
    assert measure_auroc(labels, scores) == pytest.approx(sum(pairs) / len(pairs))


def test_threshold_lets_no_more_than_its_share_over_it() -> None:
    ordinary = np.arange(1000) / 1000
    assert find_threshold(ordinary, 0.01) == 0.989
    assert int((ordinary > 0.989).sum()) == 10
    assert find_threshold(ordinary[:50], 0.01) is None  # fewer than one in a hundred
    ties = [1.0] * 30 + [0.0] * 970
    threshold = find_threshold(ties, 0.01)
    assert threshold == 1.0  # all thirty or none: none


def test_recall_is_the_share_of_attacks_above_it() -> None:
    labels = [0] * 100 + [1] * 4
    scores = [n / 100 for n in range(100)] + [0.5, 0.985, 0.99, 1.0]
    assert measure_recall(labels, scores, 0.01) == 0.75
    assert measure_recall(labels, scores, 0.001) is None
    assert measure_recall([0] * 100, scores[:100], 0.01) is None


def test_a_row_a_kind_and_one_over_all() -> None:
    rows = measure_kinds(["url", "dns", "dns", "url"], [1, 1, 0, 0], [0.9, 0.1, 0.8, 0.3])
    assert [(r.kind, r.attacks, r.ordinary, r.auroc) for r in rows] == [
        ("dns", 1, 1, 0.0),
        ("url", 1, 1, 1.0),
        ("all", 2, 2, 0.5),
    ]
    assert render_rows(rows)[1] == ["url", "1", "1", "1.000", "-", "-"]
    assert render_markdown(rows).count("\n") == 5


@pytest.mark.parametrize(("labels", "scores"), [([1], [1, 2]), ([[1]], [[1]]), ([1], [np.nan])])
def test_what_cannot_be_measured_is_refused(labels: list[int], scores: list[float]) -> None:
    with pytest.raises(ValueError):
        measure_kinds(["dns"] * len(labels), labels, scores)
