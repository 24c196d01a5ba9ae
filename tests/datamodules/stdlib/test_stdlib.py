"""What the library says of itself, as data for fine-tuning."""

import subprocess
import sys
from collections import Counter

from datamodules.records.conversations import conversation_of
from datamodules.records.pairs import judged_of
from datamodules.stdlib.areas import AREAS, passages
from datamodules.stdlib.functions import documented, first_sentence, stdlib_digest
from datamodules.stdlib.instructions import instructions
from datamodules.stdlib.preferences import preferences


def test_functions_with_what_they_do_and_how_they_are_called():
    by_name = {one.name: one for one in documented()}
    assert by_name["textwrap.dedent"].signature == "dedent(text)"
    assert by_name["textwrap.dedent"].summary == "Remove any common leading whitespace from every line in `text`."
    assert by_name["shutil.copyfile"].kind == "function"
    assert by_name["collections.Counter.most_common"].kind == "method"
    assert by_name["queue.Queue"].signature == ""
    assert by_name["json.dumps"].source.startswith("json/__init__.py:")
    assert not any(part.startswith("_") for name in by_name for part in name.split("."))


def test_the_first_sentence_of_a_docstring():
    assert first_sentence("Do this.  Then that.\n\nMore.") == "Do this."
    assert first_sentence("Do this\n    and that:\n\nx") == "Do this and that."
    assert first_sentence("f(x) -> int\n\nDo this.") == ""
    assert first_sentence("") == ""


def test_conversations_are_valid_and_always_the_same():
    first = list(instructions())
    assert first == list(instructions())
    assert len(first) > 5000
    kinds = Counter(len(conversation_of(record)) for record in first)
    assert kinds[2] > kinds[3] > 0
    assert kinds[4] > 0
    places = {record["source"].partition(":")[0] for record in first}
    assert len(places) > 100


def test_pairs_are_of_unequal_sides_and_the_chosen_one_is_right():
    right = {
        (r["group"], turn["content"]) for r in instructions() for turn in r["messages"] if turn["role"] == "assistant"
    }
    n = 0
    for record in preferences():
        judged = judged_of(record)
        assert judged.chosen is not None
        assert (record["group"], judged.chosen[-1].content) in right
        n += 1
    assert n > 5000


def test_passages_are_of_stated_areas_and_files_are_groups():
    found = list(passages())
    counts = Counter(record["label"] for record in found)
    assert set(counts) == set(AREAS)
    assert max(counts.values()) < 0.4 * len(found)
    assert min(counts.values()) > 30
    assert all(300 <= len(record["text"]) <= 700 for record in found[:500])
    labels = {}
    for record in found:
        assert labels.setdefault(record["group"], record["label"]) == record["label"]


def test_nothing_is_imported_and_no_hash_seed_matters():
    code = (
        "import sys\nfrom datamodules.stdlib.instructions import instructions\n"
        "from datamodules.stdlib.areas import passages\nfrom datamodules.stdlib.functions import stdlib_digest\n"
        "n = hash(0); a = [r['messages'][0]['content'] for r in instructions()]; b = [r['text'] for r in passages()]\n"
        "import zlib\nprint(zlib.crc32(repr((a, b)).encode()), stdlib_digest())\n"
        "assert not {'antigravity', 'this', 'turtle', 'torch', 'lightning'} & set(sys.modules)\n"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(told) == 1
    assert stdlib_digest() in told.pop()
