"""datatrove's quality filters on given texts; run by corpus_filters.py with the Python of datatrove's environment.

    python corpus_filters_peer.py TEXTS.json RESULT.json REPEATS shipped|split

RESULT.json gets the reason of every filter for every text (null: kept) and the CPU seconds of Gopher's two filters,
one number a repeat. `split` puts `str.split` in the place of datatrove's tokenizer of words, which is spaCy's.
"""

import json
import sys
import time
from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline import filters
from datatrove.pipeline.filters import (
    c4_filters,
    fineweb_quality_filter,
    gopher_quality_filter,
    gopher_repetition_filter,
)


def main() -> None:
    texts, result, repeats, words = sys.argv[1:]
    documents = json.loads(Path(texts).read_text(encoding="utf-8"))
    if words == "split":
        for module in (fineweb_quality_filter, gopher_quality_filter, gopher_repetition_filter):
            module.split_into_words = lambda text, language: text.split()
    gopher = {"gopher_quality": filters.GopherQualityFilter(), "gopher_repetition": filters.GopherRepetitionFilter()}
    others = {"c4": c4_filters.C4QualityFilter(), "fineweb": filters.FineWebQualityFilter()}
    judge(gopher | others, documents[:1])  # loads the tokenizer
    seconds = []
    for _ in range(int(repeats)):
        start = time.process_time()
        reasons = judge(gopher, documents)
        seconds.append(time.process_time() - start)
    reasons |= judge(others, documents)
    Path(result).write_text(json.dumps({"reasons": reasons, "seconds": seconds}), encoding="utf-8")


def judge(chosen: dict, texts: list[str]) -> dict[str, list[str | None]]:
    """Text by text as in datatrove's pipeline, whose filters share the words of the text in work."""
    reasons = {name: [] for name in chosen}
    for text in texts:
        for name, quality_filter in chosen.items():
            outcome = quality_filter.filter(Document(text=text, id=""))
            reasons[name].append(None if outcome is True else outcome[1] if isinstance(outcome, tuple) else "dropped")
    return reasons


if __name__ == "__main__":
    main()
