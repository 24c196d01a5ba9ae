"""Our quality filters against datatrove's, on the same texts: CPU time, and how many decisions are the same.

    python benchmarks/corpus_filters.py --peer PYTHON [--data ../shared/data] [--repeats 3]

PYTHON is the interpreter of an environment with `pip install "datatrove[processing]" spacy`. datatrove runs there
twice: as shipped, with spaCy's words, and with `str.split` in their place. Ours computes every feature, those of C4,
FineWeb and code as well, and applies Gopher's two presets; theirs runs Gopher's two filters alone. One thread each.

The texts: the C4 sample, the tiny stories, and the novels in pieces of 20,000 characters.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from datamodules.corpus.quality.c4_lines import C4Lines
from datamodules.corpus.quality.features import Features
from datamodules.corpus.quality.filters import C4, FineWeb, GopherQuality, GopherRepetition

ROOT = Path(__file__).resolve().parents[1]
PEER_SCRIPT = Path(__file__).with_name("corpus_filters_peer.py")
PIECE = 20_000  # characters of a novel that count as a document
TIMED = (GopherQuality(), GopherRepetition())

Reasons = dict[str, list[str | None]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, required=True, help="Python of datatrove's environment")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    texts = read_texts(arguments.data)
    batch = pa.record_batch({"text": pa.array(texts, pa.string())})
    ours = [timed(batch) for _ in range(arguments.repeats + 1)][1:]  # the first one warms up
    peers = {words: run_peer(arguments.peer, texts, arguments.repeats, words) for words in ("shipped", "split")}
    console = Console(width=max(110, Console().width))
    seconds = {"ours": ours} | {f"datatrove, {words}": peer["seconds"] for words, peer in peers.items()}
    console.print(speeds(seconds, sum(len(text.encode()) for text in texts), len(texts)))
    reasons = judge(batch)
    for words, peer in peers.items():
        console.print(agreement(reasons, peer["reasons"], words))


def read_texts(folder: Path) -> list[str]:
    lines = (folder / "c4-sample" / "c4_demo.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    stories = (folder / "tinystories" / "tinystories_10k.txt").read_text(encoding="utf-8")
    texts += [story for story in stories.split("<|endoftext|>") if story.strip()]
    for path in sorted(path for path in (folder / "novels").glob("*.txt") if path.name != "SOURCE.txt"):
        novel = path.read_text(encoding="utf-8")
        texts += [novel[start : start + PIECE] for start in range(0, len(novel), PIECE)]
    return texts


def timed(batch: pa.RecordBatch) -> float:
    start = time.process_time()
    features = Features().apply(batch)
    for preset in TIMED:
        preset.failed(features)
    return time.process_time() - start


def judge(batch: pa.RecordBatch) -> Reasons:
    features = Features().apply(batch)
    reasons = {preset.name: preset.failed(features).to_pylist() for preset in (*TIMED, FineWeb())}
    return reasons | {C4.name: C4().failed(Features().apply(C4Lines().apply(batch))).to_pylist()}


def run_peer(python: Path, texts: list[str], repeats: int, words: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder, "texts.json"), Path(folder, "result.json")
        source.write_text(json.dumps(texts), encoding="utf-8")
        command = [str(python), str(PEER_SCRIPT), str(source), str(result), str(repeats), words]
        subprocess.run(command, check=True)
        return json.loads(result.read_text(encoding="utf-8"))


def speeds(seconds: dict[str, list[float]], size: int, documents: int) -> Table:
    table = Table(title=f"Gopher quality and repetition: {documents} documents, {size / 1e6:.1f} MB, median CPU time")
    for column in ("", "seconds", "MB/s", "ours is faster by"):
        table.add_column(column, justify="right" if column else "left")
    ours = statistics.median(seconds["ours"])
    for name, taken in seconds.items():
        median = statistics.median(taken)
        table.add_row(name, f"{median:.2f}", f"{size / 1e6 / median:.2f}", f"{median / ours:.1f}")
    return table


def agreement(ours: Reasons, theirs: Reasons, words: str) -> Table:
    table = Table(title=f"Decisions, datatrove {words}")
    for column in ("filter", "same", "both drop", "only ours drops", "only theirs drops"):
        table.add_column(column, justify="left" if column.startswith(("filter", "only")) else "right")
    for name, reasons in ours.items():
        pairs = list(zip(reasons, theirs[name], strict=True))
        same = sum((mine is None) == (other is None) for mine, other in pairs)
        both = sum(mine is not None and other is not None for mine, other in pairs)
        only_mine = Counter(mine.partition(".")[2] for mine, other in pairs if mine is not None and other is None)
        only_other = Counter(other for mine, other in pairs if mine is None and other is not None)
        table.add_row(name, f"{same} of {len(pairs)}", str(both), *map(listed, (only_mine, only_other)))
    return table


def listed(reasons: Counter[str]) -> str:
    return "\n".join(f"{count} {reason}" for reason, count in reasons.most_common())


if __name__ == "__main__":
    main()
