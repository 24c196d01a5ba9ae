import json
import random
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.corpus.reading import planning
from datamodules.corpus.reading.planning import Part, Shard, plan_shards, shard_bytes_for, size_of
from datamodules.corpus.reading.readers import DocumentReader, ReadCounts
from datamodules.corpus.reading.sources import Input, resolve
from datamodules.errors import DataError

Documents = list[tuple[str, str]]


def write_arrow_file(path: Path, texts: list[str], rows: int) -> None:
    with pa.ipc.new_file(path, pa.schema([("n", pa.int64()), ("text", pa.string())])) as writer:
        for start in range(0, len(texts), rows):
            part = texts[start : start + rows]
            writer.write_batch(pa.record_batch({"n": list(range(len(part))), "text": pa.array(part, pa.string())}))


WRITERS: dict[str, Callable[[Path, list[str], int], None]] = {
    "a.txt": lambda path, texts, rows: path.write_bytes("\n".join(texts).encode()),
    "a.jsonl": lambda path, texts, rows: path.write_bytes(
        b"".join(json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n" * (1 + rows % 2) for text in texts)
    ),
    "a.parquet": lambda path, texts, rows: pq.write_table(
        pa.table({"text": pa.array(texts, pa.string())}), path, row_group_size=rows
    ),
    "a.arrow": write_arrow_file,
}


def read(shards: list[Shard], **options: int) -> tuple[Documents, ReadCounts]:
    documents: Documents = []
    counts = ReadCounts()
    for shard in shards:
        reader = DocumentReader(shard, **options)
        for batch in reader:
            documents += zip(batch.column("id").to_pylist(), batch.column("text").to_pylist(), strict=True)
        counts += reader.counts
    return documents, counts


@pytest.mark.parametrize("name", WRITERS)
@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.text("ab €\n\r\U0001f600", max_size=40), min_size=1, max_size=12),
    rows=st.integers(1, 5),
    shard_bytes=st.integers(1, 300),
    piece_bytes=st.integers(8, 100),
)
def test_shards_hold_what_the_whole_holds(
    name: str, texts: list[str], rows: int, shard_bytes: int, piece_bytes: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        WRITERS[name](path, texts, rows)
        if path.stat().st_size == 0:
            return
        inputs = resolve(str(path))
        (whole,) = plan_shards(inputs, 1 << 30)
        shards = plan_shards(inputs, shard_bytes)
        documents, counts = read([whole], piece_bytes=piece_bytes)
        assert read(shards, piece_bytes=piece_bytes) == (documents, counts)
        assert len({shard.name for shard in shards}) == len({shard.identity for shard in shards}) == len(shards)
        assert len({key for key, _ in documents}) == len(documents)
        if name == "a.txt":
            assert "".join(text for _, text in documents) == "\n".join(texts)
            assert all(len(text.encode()) <= piece_bytes + piece_bytes // 4 + 4 for _, text in documents)
        else:
            assert [text for _, text in documents] == texts
        assert counts.inputs == 1
        assert counts.records == counts.documents == len(documents)


@pytest.mark.parametrize("name", WRITERS)
def test_a_large_file_makes_several_shards_of_about_the_size_asked(tmp_path: Path, name: str) -> None:
    source = random.Random(0)
    texts = [f"{source.getrandbits(400):x}" for _ in range(200)]
    WRITERS[name](tmp_path / name, texts, 10)
    shards = plan_shards(resolve(str(tmp_path)), shard_bytes=4000)
    assert 4 <= len(shards) <= 10
    assert max(shard.size for shard in shards) <= 4000
    assert sum(shard.size for shard in shards) <= (tmp_path / name).stat().st_size


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl.gz", "a.html", "a.warc"])
def test_what_can_be_read_only_from_its_start_stays_whole(tmp_path: Path, name: str) -> None:
    for other in ("0.txt", "b.txt"):
        (tmp_path / other).write_text("small")
    (tmp_path / name).write_bytes(b"x" * 1000)
    shards = plan_shards(resolve(str(tmp_path)), shard_bytes=500)
    (large,) = (shard for shard in shards if shard.size == 1000)
    assert [part.input.shard for part in large.parts] == [name]
    assert large.parts[0].end is None


def test_an_arrow_stream_stays_whole(tmp_path: Path) -> None:
    batch = pa.record_batch({"text": ["one", "two"]})
    with pa.ipc.new_stream(tmp_path / "a.arrow", batch.schema) as writer:
        for _ in range(3):
            writer.write_batch(batch)
    shards = plan_shards(resolve(str(tmp_path)), shard_bytes=10)
    assert len(shards) == 1
    assert [text for _, text in read(shards)[0]] == ["one", "two"] * 3


def many(folder: Path, n: int) -> list[Input]:
    folder.mkdir()
    for number in range(n):
        (folder / f"{number:04}.txt").write_text(f"{number:04}" * 5)
    return resolve(str(folder))


def test_small_files_share_shards_and_one_more_changes_few(tmp_path: Path) -> None:
    many(tmp_path / "texts", 500)
    before = plan_shards(resolve(str(tmp_path / "texts")), shard_bytes=1000)
    assert 10 < len(before) < 100
    assert all(len(shard.parts) <= 50 for shard in before)
    (tmp_path / "texts" / "0100b.txt").write_text("one more file!")
    after = plan_shards(resolve(str(tmp_path / "texts")), shard_bytes=1000)
    changed = {shard.identity for shard in after} - {shard.identity for shard in before}
    assert 1 <= len(changed) <= 4
    assert Counter(part.input.shard for shard in after for part in shard.parts).most_common(1)[0][1] == 1
    assert sum(len(shard.parts) for shard in after) == 501


def sized(path: Path, size: int) -> Input:
    """A text file of so many bytes, which take no room on disk."""
    with path.open("wb") as file:
        file.truncate(size)
    return Input("texts", path.name, "text", path)


def named(shards: list[Shard]) -> list[list[str]]:
    return [[part.name.removeprefix("texts/") for part in shard.parts] for shard in shards]


@pytest.mark.parametrize(
    ("total", "shard"), [(0, 16), (4096, 16), (4097, 64), (16384, 64), (16385, 256), (100_000_000, 256)]
)
def test_a_shard_is_larger_where_there_is_more_in_all(total: int, shard: int) -> None:
    assert shard_bytes_for(total << 20) == shard << 20


def test_the_size_of_all_inputs_is_that_of_their_files(tmp_path: Path) -> None:
    inputs = [sized(tmp_path / "a.txt", 1000), sized(tmp_path / "b.txt", 1), Input("hub", "x", "hub", None)]
    assert size_of(inputs) == 1001


def test_a_file_is_cut_beyond_the_size_of_a_shard(tmp_path: Path) -> None:
    most = 256 << 20
    inputs = [sized(tmp_path / "most.txt", most), sized(tmp_path / "more.txt", most + 1)]
    assert [[(part.start, part.end) for part in shard.parts] for shard in plan_shards(inputs, most)] == [
        [(0, None)],
        [(0, most)],
        [(most, most + 1)],
    ]


def test_a_shard_may_be_just_as_large_as_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "_ends_group", lambda item, share: False)
    inputs = [sized(tmp_path / f"{number}.txt", size) for number, size in enumerate((500, 500, 400, 300, 301))]
    assert named(plan_shards(inputs, 1000)) == [["0.txt", "1.txt"], ["2.txt", "3.txt"], ["4.txt"]]


def test_parts_are_alone_and_in_the_order_of_the_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "_ends_group", lambda item, share: False)
    monkeypatch.setattr(planning.hub, "n_files", lambda kind, source, path: 3 if source == "several" else 1)
    inputs = [
        sized(tmp_path / "a.txt", 10),
        Input("several", "", "hub"),
        sized(tmp_path / "b.txt", 10),
        Input("single", "", "hub"),
        sized(tmp_path / "c.txt", 1500),
        sized(tmp_path / "d.txt", 10),
    ]
    shards = plan_shards(inputs, 1000)
    assert [[(part.input.source, part.start, part.end) for part in shard.parts] for shard in shards] == [
        [("texts", 0, None)],
        [("several", 0, 1)],
        [("several", 1, 2)],
        [("several", 2, 3)],
        [("texts", 0, None), ("single", 0, None)],
        [("texts", 0, 1000)],
        [("texts", 1000, 1500)],
        [("texts", 0, None)],
    ]


def test_what_is_read_has_an_identity_of_its_own() -> None:
    inputs = [Input("one", "a", "text"), Input("two", "a", "text"), Input("one", "b", "text"), Input("one", "a", "csv")]
    parts = [(0, None), (0, 5), (0, 6), (1, 6)]
    shards = [Shard((Part(item, start, end),)) for item in inputs for start, end in parts]
    shards += [Shard((Part(inputs[0]), Part(inputs[1]))), Shard((Part(inputs[1]), Part(inputs[0])))]
    assert len({shard.identity for shard in shards}) == len(shards)
    moved = Shard((Part(Input("one", "a", "text", Path("elsewhere")), size=9),))
    assert moved.identity == shards[0].identity


def test_a_table_of_one_row_group_stays_whole(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["some text"] * 1000}), tmp_path / "a.parquet")
    [shard] = plan_shards(resolve(str(tmp_path)), shard_bytes=10)
    assert [(part.start, part.end) for part in shard.parts] == [(0, None)]


def test_empty_files_are_not_all_in_one_shard(tmp_path: Path) -> None:
    path = tmp_path / "empty.txt"
    path.touch()
    inputs = [Input("texts", f"{number}.txt", "text", path) for number in range(10_000)]
    shards = plan_shards(inputs, 1 << 30)
    assert max(len(shard.parts) for shard in shards) <= 4096
    documents, counts = read(shards)
    assert {text for _, text in documents} == {""}
    assert counts.records == counts.documents == counts.inputs == 10_000


@pytest.mark.parametrize("name", WRITERS)
def test_a_source_that_disappears_or_shrinks_after_planning(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path, ["some text"] * 1000, 100)
    shards = plan_shards(resolve(str(path)), shard_bytes=1000)
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(DataError, match=name):
        read(shards[-1:])
    path.unlink()
    with pytest.raises(DataError, match=rf"cannot read .*{name} \(No such file"):
        read(shards[-1:])
    with pytest.raises(DataError, match=rf"cannot read .*{name} \(No such file"):
        plan_shards([shards[0].parts[0].input], 1 << 30)


def test_a_bad_line_of_a_later_part_is_named_by_its_number_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n' * 100 + "{no\n" + '{"text": "fine"}\n' * 100)
    shards = plan_shards(resolve(str(path)), shard_bytes=200)
    with pytest.raises(DataError, match="the first of them at line 101 "):
        read(shards)
