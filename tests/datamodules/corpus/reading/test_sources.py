import errno
import os
from pathlib import Path

import pytest

from datamodules.corpus.reading.sources import digest, resolve
from datamodules.digests import FileDigests
from datamodules.errors import DataError


def test_stdlib_is_the_running_librarys_code_without_tests_and_its_topics() -> None:
    inputs = resolve("stdlib")
    shards = [item.shard for item in inputs]
    assert "argparse.py" in shards
    assert "json/decoder.py" in shards
    assert len(inputs) > 500
    parts = {part for shard in shards for part in shard.split("/")[:-1]}
    assert not parts & {"test", "tests", "idle_test", "site-packages", "__pycache__"}
    topics = [item for item in inputs if item.shard == "pydoc_data/topics.py"]
    assert [item.format for item in topics] == ["topics"]


def test_specs_are_files_folders_and_globs(tmp_path: Path) -> None:
    for name in ("b.txt", "a.md", "sub/c.py", "sub/.hidden.txt", "picture.png", "more.jsonl.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    folder = resolve(str(tmp_path))
    assert [item.shard for item in folder] == ["a.md", "b.txt", "more.jsonl.gz", "sub/c.py"]
    assert {item.source for item in folder} == {tmp_path.name}
    assert [item.format for item in folder] == ["text", "text", "jsonl", "text"]
    assert [item.shard for item in resolve(str(tmp_path / "**" / "*.py"))] == ["sub/c.py"]
    assert [item.name for item in resolve(str(tmp_path / "b.txt"))] == ["b.txt"]


def test_a_file_that_two_specs_name_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    assert len(resolve([str(tmp_path / "*.txt"), str(tmp_path / "a.txt"), str(tmp_path)])) == 1


def test_names_do_not_hold_the_path_above_the_corpus_and_tell_equal_folders_apart(tmp_path: Path) -> None:
    for side in ("one", "two"):
        (tmp_path / side / "texts").mkdir(parents=True)
        (tmp_path / side / "texts" / "a.txt").write_text(side)
    specs = [str(tmp_path / "one" / "texts"), str(tmp_path / "two" / "texts")]
    assert [item.name for item in resolve(specs)] == ["one/texts/a.txt", "two/texts/a.txt"]
    assert {item.name for item in resolve(specs[::-1])} == {"one/texts/a.txt", "two/texts/a.txt"}
    assert resolve(specs[:1])[0].name == "texts/a.txt"


def test_the_order_of_the_specs_changes_nothing(tmp_path: Path) -> None:
    for name in ("b/x.txt", "b/y.txt", "a/z.html", "c.txt", "other/b/x.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    specs = ["b", "b/x.txt", "b/*.txt", "a", "c.txt", "other/b", "."]
    for length in range(1, len(specs) + 1):
        chosen = [str(tmp_path / spec) for spec in specs[:length]]
        inputs = resolve(chosen)
        assert inputs == sorted(inputs, key=lambda item: (item.source, item.shard))
        for order in (chosen[::-1], chosen[length // 2 :] + chosen[: length // 2]):
            assert resolve(order) == inputs
    assert {item.source for item in resolve([str(tmp_path / "b" / "x.txt"), str(tmp_path / "b")])} == {"b"}


def test_two_splits_of_one_data_set_are_two_inputs(tmp_path: Path) -> None:
    specs = [f"hf:{tmp_path}:validation", f"hf:{tmp_path}"]
    assert [item.source for item in resolve([*specs, specs[0]])] == sorted(specs)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("stdlip", "did you mean .stdlib."),
        ("{}/novels/warandpaece.txt", r"did you mean '.*warandpeace.txt'"),
        ("{}/nowhere/*.txt", "no file matches .*nowhere"),
        ("{}/pictures", "holds no file that can be read.*jsonl"),
        ("{}/pictures/a.png", "unknown extension '.png'.*txt"),
        ("{}/empty.txt", "empty.txt is empty"),
        ("{}/gone.txt", "gone.txt is a link to 'nowhere', which is not there; mend the link"),
        ("{}/circle.txt", "circle.txt is a link to 'circle.txt', which is not there"),
        ("~nobody-of-that-name/a.txt", "no file or folder '~nobody-of-that-name/a.txt'"),
        ("", "sources holds an empty name"),
        (" ", "sources holds an empty name"),
        ("hf:", "names no data set"),
        ("hf:./not/here", "names no data set"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, spec: str, message: str) -> None:
    (tmp_path / "novels").mkdir()
    (tmp_path / "novels" / "warandpeace.txt").write_text("Well, Prince")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"\x89PNG")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "gone.txt").symlink_to("nowhere")
    (tmp_path / "circle.txt").symlink_to("circle.txt")
    with pytest.raises(DataError, match=message):
        resolve(spec.format(tmp_path))


def test_globs_are_those_of_a_shell(tmp_path: Path) -> None:
    for name in (
        "a.txt",
        "sub/b.txt",
        "sub/deep/c.txt",
        "sub/.hidden.txt",
        ".cache/d.txt",
        ".cache/e/f.txt",
        "[x].txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "link").symlink_to("sub")
    expected = {
        "*.txt": ["[x].txt", "a.txt"],
        "**/*.txt": ["[x].txt", "a.txt", "sub/b.txt", "sub/deep/c.txt"],
        "**": ["[x].txt", "a.txt", "sub/b.txt", "sub/deep/c.txt"],
        "*/*.txt": ["link/b.txt"],
        "sub/**/?.txt": ["b.txt", "deep/c.txt"],
        "s**b/*.txt": ["sub/b.txt"],
        ".cache/*.txt": ["d.txt"],
        ".c*/**/*.txt": [".cache/d.txt", ".cache/e/f.txt"],
        "**/.h*": ["sub/.hidden.txt"],
        "[[]x].txt": ["[x].txt"],
        "[x].txt": ["[x].txt"],
        "link/*.txt": ["b.txt"],
        f"../{tmp_path.name}/[ab].t[xy]t": ["a.txt"],
    }
    for pattern, shards in expected.items():
        assert [item.shard for item in resolve(str(tmp_path / pattern))] == shards, pattern


def test_links_that_lead_in_circles(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    for name, target in (("self", "."), ("up", f"../{tmp_path.name}"), ("sub", "."), ("more", "sub")):
        (tmp_path / name).symlink_to(target)
    for spec in (tmp_path, tmp_path / "**" / "*.txt", tmp_path / "**"):
        assert [item.shard for item in resolve(str(spec))] == ["a.txt"]
    (tmp_path / "b.txt").symlink_to("b.txt")
    for spec in (tmp_path, tmp_path / "*.txt"):
        assert "a.txt" in [item.shard for item in resolve(str(spec))]


def test_a_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refused)  # root may read everything, so the system would not refuse it here
    with pytest.raises(DataError, match=r"cannot read .*dataset_dict.json \(Permission denied\); check"):
        resolve(str(tmp_path))


def test_a_file_that_is_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    (item,) = resolve(str(tmp_path))
    with pytest.raises(DataError, match=r"cannot read .*a\.txt \(it is a pipe, a device or a folder, not a file\)"):
        digest(item, FileDigests(tmp_path / "cache"))


def test_no_sources_at_all() -> None:
    with pytest.raises(DataError, match="sources is empty"):
        resolve([])
