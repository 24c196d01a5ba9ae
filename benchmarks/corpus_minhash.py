"""MinHash signatures from text: MB of text per second of CPU time, next to datatrove's and Daft's, in one run.

    python benchmarks/corpus_minhash.py --peer PEER/bin/python [--text FOLDER_OR_FILE ...] [--megabytes 8] [--repeats 3]

PEER is an environment with `pip install "datatrove[processing]" daft spacy`; each contestant runs in a process of its
own, on the same documents. datatrove's `MinhashDedupSignature` runs as shipped and with its tokenizer swapped for
`str.split`; both write their signatures to a temporary folder, as they do in use. Daft's is the expression `minhash`
with n-grams of 5 words and 112 hashes. CPU time is that of all threads of the process; start, import
and a first run of ours and Daft's do not count. Rounds take turns, so that a busy machine slows all alike; medians
count. datatrove as shipped gets one document of eight.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

SHARE = 8  # one document of so many for datatrove as shipped, which would take minutes otherwise

PEERS = {
    "datatrove, as shipped": """
from datatrove.data import Document
from datatrove.pipeline.dedup import MinhashDedupSignature
stage = MinhashDedupSignature(tempfile.mkdtemp())
stage.word_tokenizer.word_tokenize("The first call loads its model.")
documents = [Document(text=text, id=str(number)) for number, text in enumerate(texts)]
work = lambda: stage.run(iter(documents))
""",
    "datatrove, tokenizer swapped for str.split": """
from datatrove.data import Document
from datatrove.pipeline.dedup import MinhashDedupSignature
stage = MinhashDedupSignature(tempfile.mkdtemp())
stage.word_tokenizer = type("Split", (), {"word_tokenize": staticmethod(str.split)})
documents = [Document(text=text, id=str(number)) for number, text in enumerate(texts)]
work = lambda: stage.run(iter(documents))
""",
    "Daft, minhash expression": """
import daft
from daft.functions import minhash
frame = daft.from_pydict({"text": texts}).collect()
column = minhash(daft.col("text"), num_hashes=112, ngram_size=5, hash_function="xxhash")
work = lambda: frame.select(column).collect()
work()
""",
}
OURS = """
import pyarrow as pa
from datamodules.corpus.duplicates.minhash import MinHash
batch = pa.RecordBatch.from_pydict({"text": pa.array(texts, pa.string())})
minhash = MinHash()
work = lambda: minhash.apply(batch)
work()
"""
FRAME = """
import json, sys, tempfile, time
texts = json.load(open(sys.argv[1]))
{setup}
start = time.process_time()
work()
print(time.process_time() - start)
"""
GOALS = {
    "datatrove, as shipped": 100,
    "datatrove, tokenizer swapped for str.split": 15,
    "Daft, minhash expression": 2.5,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", required=True, help="Python of the environment with the peers")
    parser.add_argument("--text", type=Path, nargs="*", default=[], help="text to cut documents from")
    parser.add_argument("--megabytes", type=float, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    texts = documents(arguments.text, arguments.megabytes)
    rates: dict[str, list[float]] = {name: [] for name in ("ours", *PEERS)}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.repeats):
            rates["ours"].append(rate(sys.executable, OURS, texts, folder))
            for name, setup in PEERS.items():
                some = texts[::SHARE] if "shipped" in name else texts
                rates[name].append(rate(arguments.peer, setup, some, folder))
    ours = statistics.median(rates["ours"])
    size = megabytes(texts)
    table = Table(title=f"MinHash signatures of {len(texts):,} documents, {size:.1f} MB: median of {arguments.repeats}")
    for column in ("contestant", "MB/s of CPU time", "rounds", "ours is faster by", "goal"):
        table.add_column(column, justify="left" if column == "contestant" else "right")
    for name, found in rates.items():
        median = statistics.median(found)
        rounds = " ".join(f"{one:.3g}" for one in found)
        factor = f"{ours / median:.3g} x" if name in PEERS else ""
        table.add_row(name, f"{median:.3g}", rounds, factor, f"{GOALS[name]} x" if name in GOALS else "")
    Console().print(table)


def documents(paths: list[Path], size: float) -> list[str]:
    """Documents of a few hundred words, as long as those of a crawl: of the files, or else of made-up words."""
    rng = random.Random(0)
    if paths:
        files = [file for path in paths for file in (sorted(path.glob("*.txt")) if path.is_dir() else [path])]
        pieces = [line for file in files for line in file.read_text(encoding="utf-8", errors="replace").split("\n\n")]
    else:
        words = ["".join(rng.choices("etaoinshrdlucmfwypvbgk", k=rng.randint(1, 9))) for _ in range(20_000)]
        weights = [1 / (rank + 1) for rank in range(len(words))]
        pieces = [" ".join(rng.choices(words, weights, k=60)).capitalize() + "." for _ in range(round(size * 4000))]
    texts: list[str] = []
    total, place = 0, 0
    while total < size * 1e6:
        length, document = rng.lognormvariate(7.4, 0.8), ""
        while len(document) < length:
            document += pieces[place % len(pieces)] + "\n\n"
            place += 1
        texts.append(document)
        total += len(document.encode())
    return texts


def megabytes(texts: list[str]) -> float:
    return sum(len(text.encode()) for text in texts) / 1e6


def rate(python: str, setup: str, texts: list[str], folder: str) -> float:
    """MB/s of CPU time of one run in a process of its own."""
    path = Path(folder) / "texts.json"
    path.write_text(json.dumps(texts))
    code = FRAME.format(setup=setup)
    done = subprocess.run([python, "-c", code, str(path)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{python} failed:\n{done.stderr[-2000:]}")
    return megabytes(texts) / float(done.stdout.split()[-1])


if __name__ == "__main__":
    main()
