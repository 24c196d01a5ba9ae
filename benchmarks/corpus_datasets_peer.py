"""The side of Hugging Face `datasets` in `benchmarks/corpus.py`: run in its own environment, prints seconds as JSON.

What a user would write: the ten rules of Gopher's quality filter in plain Python on `text.split()`, a hash of the text,
`map` in two processes, `filter`, exact duplicates by a set, Parquet.
"""

import hashlib
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with"}


def judge(row: dict[str, Any]) -> dict[str, Any]:
    """Whether a document passes, and the hash of its text."""
    text = row["text"]
    words = text.split()
    lines = [line for line in text.split("\n") if line.strip()]
    n = max(1, len(words))
    keep = (
        50 <= len(words) <= 100_000
        and 3 <= sum(map(len, words)) / n <= 10
        and text.count("#") / n <= 0.1
        and (text.count("...") + text.count("…")) / n <= 0.1
        and sum(line.lstrip().startswith(("•", "-")) for line in lines) / max(1, len(lines)) <= 0.9
        and sum(line.rstrip().endswith(("...", "…")) for line in lines) / max(1, len(lines)) <= 0.3
        and sum(any(letter.isalpha() for letter in word) for word in words) / n >= 0.8
        and len(STOP_WORDS & set(words)) >= 2
    )
    return {"keep": keep, "hash": hashlib.md5(text.encode()).hexdigest()}


def main() -> None:
    """Filter, deduplicate and write the JSON-lines files of a folder."""
    import datasets

    datasets.disable_progress_bars()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as cache:
        files = sorted(str(path) for path in Path(sys.argv[1]).iterdir())
        rows = datasets.load_dataset("json", data_files=files, split="train", cache_dir=cache)
        rows = rows.map(judge, num_proc=2).filter(lambda keep: keep, input_columns="keep")
        seen: set[str] = set()
        first = [number for number, digest in enumerate(rows["hash"]) if not (digest in seen or seen.add(digest))]
        rows.select(first).to_parquet(str(Path(cache) / "out.parquet"))
        seconds = time.perf_counter() - began
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(usage.ru_utime + usage.ru_stime for usage in used)
    print(json.dumps({"seconds": seconds, "cpu": cpu, "kept": len(first)}))


if __name__ == "__main__":
    main()
