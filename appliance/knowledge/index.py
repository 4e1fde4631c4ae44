"""Knowledge, nearness of meaning: the FAISS index over the passages' vectors. The only module that
imports faiss, and only when an index is written or opened.

Few vectors are compared one by one (exact). Above `FLAT_LIMIT` they lie in lists around centroids
(IVF) as half-precision numbers, and a search looks into the nearest lists only: how many is chosen
when the index is written, by measured recall. All vectors are rounded to half precision first, so
that both kinds hold the same numbers and a vector that is read back is the one that was written.
"""

import threading
from pathlib import Path
from typing import Any, Final, Literal, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from appliance.errors import ModelError

#: Up to this many vectors every one is compared with the question.
FLAT_LIMIT: Final = 20_000

#: Least share of the true ten nearest that the chosen number of lists must find.
MIN_RECALL: Final = 0.99

#: What recall is measured at, on how many questions.
_RECALL_AT: Final = 10
_QUESTIONS: Final = 400
#: How near a made-up question lies to a passage: cosines of real questions with what they find.
_NEARNESS: Final = (0.55, 0.7, 0.85)
#: Two inner products that differ by less are the same: float32 sums in another order.
_SAME: Final = 1e-5

_SEED: Final = 20_240_601
#: Numbers of lists looked into that are tried, as shares of all lists.
_SHARES: Final = (0.01, 0.02, 0.03, 0.045, 0.06, 0.08, 0.11, 0.15, 0.2, 0.27, 0.36, 0.5, 0.7, 1.0)

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]


class IndexFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an index is. Of `lists` lists a search looks into `probes`; that found `recall` of the
    true ten nearest, measured with `questions` questions (all 1 where every vector is compared)."""

    kind: Literal["flat", "ivf"]
    lists: int = 1
    probes: int = 1
    recall: float = 1.0
    questions: int = 0


def load_faiss() -> Any:
    """The faiss module, on one thread: it shares the core with the line. Raises ModelError when it
    cannot be loaded."""
    try:
        import faiss  # noqa: PLC0415 - takes 0.1 s, and not every command needs it
    except ImportError as error:
        raise ModelError(f"faiss cannot be loaded: {error}") from error
    faiss.omp_set_num_threads(1)
    return faiss


def round_vectors(vectors: Vectors) -> Vectors:
    """The vectors as the index holds them: each number rounded to IEEE 754 half precision."""
    rounded: Vectors = vectors.astype(np.float16).astype(np.float32)
    return rounded


def write_index(path: Path, vectors: Vectors, flat_limit: int = FLAT_LIMIT) -> IndexFacts:
    """Write the index over rounded unit vectors of shape (n, dims), n > 0; the same vectors give
    the same bytes. Raises ModelError when it can't be written."""
    faiss = load_faiss()
    if len(vectors) <= flat_limit:
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(np.ascontiguousarray(vectors))
        facts = IndexFacts("flat")
    else:
        index = _fill_lists(faiss, vectors)
        facts = _choose_probes(faiss, index, vectors)
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:
        raise ModelError(f"{path}: cannot be written: {_first_line(error)}") from error
    return facts


def _fill_lists(faiss: Any, vectors: Vectors) -> Any:
    count, dims = vectors.shape
    lists = 1 << int(np.log2(2 * np.sqrt(count)))
    middle = faiss.IndexFlatIP(dims)
    index = faiss.IndexIVFScalarQuantizer(
        middle, dims, lists, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT, False
    )
    index.cp.seed = _SEED
    index.cp.niter = 8
    index.cp.spherical = True
    index.cp.max_points_per_centroid = 64
    index.train(np.ascontiguousarray(vectors))
    index.add(np.ascontiguousarray(vectors))
    return index


def make_questions(vectors: Vectors, count: int, seed: int) -> Vectors:
    """Unit vectors that lie as near to passages as questions do, without being any: half lean from
    one passage to another, half from a passage in a random direction. Shape (count, dims)."""
    random = np.random.default_rng(seed)
    near = vectors[random.integers(0, len(vectors), count)]
    away = vectors[random.integers(0, len(vectors), count)].copy()
    noise = random.standard_normal(away.shape).astype(np.float32)
    away[::2] = noise[::2]
    away -= (away * near).sum(axis=1, keepdims=True) * near
    away /= np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-6)
    share = random.choice(np.array(_NEARNESS, np.float32), (count, 1))
    questions: Vectors = (share * near + np.sqrt(1 - share**2) * away).astype(np.float32)
    questions /= np.linalg.norm(questions, axis=1, keepdims=True)
    return questions


def find_exact_scores(vectors: Vectors, questions: Vectors, k: int) -> Vectors:
    """The k-th best inner product of each question with all vectors, shape (len(questions),)."""
    worst = np.empty(len(questions), np.float32)
    for begin in range(0, len(questions), 32):
        scores = questions[begin : begin + 32] @ vectors.T
        place = scores.shape[1] - min(k, scores.shape[1])
        worst[begin : begin + 32] = np.partition(scores, place, axis=1)[:, place]
    return worst


def _choose_probes(faiss: Any, index: Any, vectors: Vectors) -> IndexFacts:
    """The fewest lists to look into that reach `MIN_RECALL`. Recall goes by inner products: of two
    passages that are equally near either will do."""
    questions = make_questions(vectors, _QUESTIONS, _SEED)
    worst = find_exact_scores(vectors, questions, _RECALL_AT)
    recall = 0.0
    probes = index.nlist
    for share in _SHARES:
        probes = max(1, round(index.nlist * share))
        options = faiss.SearchParametersIVF(nprobe=probes)
        scores, _ = index.search(questions, _RECALL_AT, params=options)
        recall = float((scores >= worst[:, np.newaxis] - _SAME).mean())
        if recall >= MIN_RECALL:
            break
    return IndexFacts("ivf", index.nlist, probes, round(recall, 4), _QUESTIONS)


class VectorIndex:
    """An index that was opened. Use `open`. Safe to share between threads."""

    def __init__(self, index: Any, facts: IndexFacts) -> None:
        self._index = index
        self._facts = facts
        self._lock = threading.Lock()  # faiss does not promise concurrent searches
        self.dims: Final[int] = index.d
        self.count: Final[int] = index.ntotal

    @classmethod
    def open(cls, path: Path, facts: IndexFacts) -> Self:
        """Open an index whose bytes were verified; lists stay in the file and are mapped into
        memory as they are asked. Raises ModelError when it is not such an index."""
        faiss = load_faiss()
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP if facts.kind == "ivf" else 0)
        except RuntimeError as error:
            raise ModelError(f"{path}: not a faiss index") from error
        if facts.kind == "flat" and not isinstance(index, faiss.IndexFlatIP):
            raise ModelError(f"{path}: not a flat inner-product index")
        if facts.kind == "ivf":
            if not isinstance(index, faiss.IndexIVFScalarQuantizer) or index.nlist != facts.lists:
                raise ModelError(f"{path}: not an index of {facts.lists} lists")
            lists = faiss.downcast_InvertedLists(index.invlists)
            if hasattr(lists, "prefetch_nthread"):
                lists.prefetch_nthread = 0  # or every search starts 32 threads
        return cls(index, facts)

    def search(self, vector: Vectors, k: int, mask: Mask | None = None) -> tuple[Rows, Vectors]:
        """Rows and inner products of the `k` nearest passages, best first; fewer where there are
        no more. `vector`: a finite float32 vector of shape (dims,); `mask`, of shape (count,),
        says which rows may be found."""
        k = min(k, self.count)
        if k <= 0:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        probes = self._facts.probes
        bits = None
        if mask is not None:
            share = float(mask.mean())
            if share == 0.0:
                return np.empty(0, np.int64), np.empty(0, np.float32)
            # What is rare lies in few of the lists: look into more, for the same work.
            probes = min(self._facts.lists, int(np.ceil(probes / share)))
            bits = np.packbits(mask, bitorder="little")
        return self._search(vector, k, probes, bits)

    def score_rows(self, vector: Vectors, rows: Rows) -> tuple[Rows, Vectors]:
        """The inner products of these rows, best first."""
        mask = np.zeros(self.count, np.bool_)
        mask[rows] = True
        bits = np.packbits(mask, bitorder="little")
        return self._search(vector, int(mask.sum()), self._facts.lists, bits)

    def _search(
        self, vector: Vectors, k: int, probes: int, bits: NDArray[np.uint8] | None
    ) -> tuple[Rows, Vectors]:
        faiss = load_faiss()
        question = np.ascontiguousarray(vector, np.float32).reshape(1, -1)
        chosen = {}
        if bits is not None:
            pointer = faiss.swig_ptr(bits)
            chosen["sel"] = faiss.IDSelectorBitmap(len(bits), pointer)
        if self._facts.kind == "ivf":
            options = faiss.SearchParametersIVF(nprobe=probes, **chosen)
        else:
            options = faiss.SearchParameters(**chosen)
        with self._lock:
            scores, found = self._index.search(question, k, params=options)
        there = found[0] >= 0
        return found[0][there], np.clip(scores[0][there], -1.0, 1.0)

    def read_vectors(self) -> Vectors:
        """All vectors by row, shape (count, dims): as they were written."""
        with self._lock:
            vectors: Vectors = self._index.reconstruct_n(0, self.count)
        return vectors


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
