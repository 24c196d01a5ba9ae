import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.corpus.spans import documents_of, remove_spans, replace_spans, text_bytes, trim_spans

TEXTS = st.lists(st.text(st.sampled_from("ab \n\t"), max_size=12), max_size=6)


@st.composite
def spans(draw: st.DrawFn) -> tuple[list[str], list[list[tuple[int, int]]]]:
    """Texts, and spans apart from each other in each."""
    texts = draw(TEXTS)
    within = []
    for text in texts:
        cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=6)))
        within.append(list(zip(cuts[0::2], cuts[1::2], strict=False)))
    return texts, within


def flat(texts: list[str], within: list[list[tuple[int, int]]]) -> tuple[pa.StringArray, np.ndarray, np.ndarray]:
    text = pa.array(texts, pa.string())
    offsets = text_bytes(text)[1]
    pairs = [
        (offset + start, offset + end)
        for offset, some in zip(offsets[:-1].tolist(), within, strict=True)
        for start, end in some
    ]
    starts, ends = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return text, starts, ends


@settings(max_examples=100, deadline=None)
@given(spans(), st.lists(st.sampled_from([b"", b"x", b"[URL]"]), min_size=36, max_size=36))
def test_spans_are_removed_and_replaced_in_their_own_document(
    case: tuple[list[str], list[list[tuple[int, int]]]], replacements: list[bytes]
) -> None:
    texts, within = case
    text, starts, ends = flat(texts, within)
    taken = iter(replacements)
    removed, replaced = [], []
    for one, some in zip(texts, within, strict=True):
        at, without, other = 0, "", ""
        for start, end in some:
            without += one[at:start]
            other += one[at:start] + next(taken).decode()
            at = end
        removed.append(without + one[at:])
        replaced.append(other + one[at:])
    assert remove_spans(text, starts, ends).to_pylist() == removed
    assert replace_spans(text, starts, ends, replacements[: len(starts)]).to_pylist() == replaced
    documents = [number for number, some in enumerate(within) for start, end in some if end > start]
    assert documents_of(text_bytes(text)[1], starts[ends > starts]).tolist() == documents


@settings(max_examples=100, deadline=None)
@given(spans())
def test_trimmed_spans_are_stripped_texts(case: tuple[list[str], list[list[tuple[int, int]]]]) -> None:
    text, starts, ends = flat(*case)
    data = text_bytes(text)[0]
    trimmed = [data[start:end].tobytes() for start, end in zip(*trim_spans(data, starts, ends), strict=True)]
    assert trimmed == [data[start:end].tobytes().strip(b" \t\n") for start, end in zip(starts, ends, strict=True)]


def test_long_runs_of_blanks_are_trimmed_as_well() -> None:
    texts = [" " * 30 + "a b" + "\n" * 30, " " * 30, " " * 8 + "a", "a" + " " * 9]
    text = pa.array(texts, pa.string())
    data, offsets = text_bytes(text)
    starts, ends = trim_spans(data, offsets[:-1], offsets[1:])
    assert [data[start:end].tobytes() for start, end in zip(starts, ends, strict=True)] == [b"a b", b"", b"a", b"a"]
    assert (starts[1], ends[1]) == (offsets[1], offsets[1])
