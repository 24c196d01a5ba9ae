"""Languages of documents: our stage against py3langid called for one text at a time, on the same texts in one run.

    python benchmarks/language.py [--data ../shared/data] [--documents 3000] [--rounds 5]

Ours is the whole stage, in batches of 1,024 documents as the pipeline has them: the beginning of each text is cut out,
labels and scores come back as columns. py3langid gets the beginnings ready cut, and its answers stay a list. Each round
times both once, so that a busy machine slows them alike; medians of the CPU time count, MB are of the whole texts.
Labels and scores are compared before anything is timed. Loading the model, the same for both, is timed apart.
Kinds of text that `--data` lacks are left out.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pyarrow as pa
from py3langid.langid import MODEL_FILE, LanguageIdentifier
from rich.console import Console
from rich.table import Table

from datamodules.corpus.cleaning.identifier import Identifier
from datamodules.corpus.cleaning.language import LANGUAGE, LANGUAGE_SCORE, UNDETERMINED, Language, first_part

BATCH = 1024  # documents
PIECE = 2_000  # characters of a novel that count as a document


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--documents", type=int, default=3_000, help="of each kind of text at most")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    start = time.process_time()
    model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    loaded = time.process_time()
    Identifier(model)
    console = Console(width=max(110, Console().width))
    console.print(
        f"py3langid's model is loaded in {loaded - start:.2f} s of CPU time, our tables of it are made in "
        f"{time.process_time() - loaded:.2f} s; median of {arguments.rounds} rounds"
    )
    table = Table()
    for column in ("", "documents", "MB", "labels", "scores", "py3langid MB/s", "ours MB/s", "documents/s", "x"):
        table.add_column(column, justify="right" if column else "left")
    for kind, texts in read_texts(arguments.data).items():
        table.add_row(kind, *compare(texts[: arguments.documents], model, arguments.rounds))
    console.print(table)


def read_texts(data: Path) -> dict[str, list[str]]:
    """Documents by kind of text."""
    kinds: dict[str, Callable[[], Iterator[str]]] = {
        "web pages": lambda: (
            json.loads(row)["text"]
            for path in data.glob("c4-sample/c4_demo.jsonl")
            for row in path.read_text(encoding="utf-8").splitlines()
        ),
        "novels, cut": lambda: (
            novel[start : start + PIECE]
            for path in sorted(data.glob("novels/*_*.txt"))
            for novel in [path.read_text(encoding="utf-8-sig")]
            for start in range(0, len(novel), PIECE)
        ),
        "stories": lambda: (
            story
            for path in data.glob("tinystories/tinystories_10k.txt")
            for story in path.read_text(encoding="utf-8").split("<|endoftext|>")
        ),
        "short messages": lambda: (
            line.partition("\t")[2]
            for path in data.glob("sms-spam/SMSSpamCollection")
            for line in path.read_text(encoding="utf-8").splitlines()
        ),
    }
    return {kind: texts for kind, read in kinds.items() if (texts := list(read()))}


def compare(texts: list[str], model: LanguageIdentifier, rounds: int) -> list[str]:
    """A row of the table."""
    stage = Language()
    whole = pa.record_batch({"text": pa.array(texts, pa.string())})
    batches = [whole.slice(start, BATCH) for start in range(0, len(whole), BATCH)]
    heads = first_part(whole.column("text"), stage.first_bytes).to_pylist()
    expected = [model.classify(head) for head in heads]
    told = pa.Table.from_batches([stage.apply(batch) for batch in batches])
    languages, scores = told[LANGUAGE.name].to_pylist(), told[LANGUAGE_SCORE.name].to_numpy()
    # Without a letter ours says "und" without asking the model.
    pairs = [(one, other[0]) for one, other in zip(languages, expected, strict=True) if one != UNDETERMINED]
    same = all(one == other for one, other in pairs)
    judged = np.array([one != UNDETERMINED for one in languages])
    error = np.abs(scores - np.array([score for _, score in expected]))[judged].max()
    ours, theirs = [], []
    for _ in range(rounds):
        start = time.process_time()
        for batch in batches:
            stage.apply(batch)
        ours.append(time.process_time() - start)
        start = time.process_time()
        for head in heads:
            model.classify(head)
        theirs.append(time.process_time() - start)
    seconds, seconds_theirs = statistics.median(ours), statistics.median(theirs)
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    return [
        f"{len(texts):,}",
        f"{megabytes:.1f}",
        "identical" if same else "DIFFERENT",
        f"± {error:.0e}",
        f"{megabytes / seconds_theirs:.2f}",
        f"{megabytes / seconds:.1f}",
        f"{len(texts) / seconds:,.0f}",
        f"{seconds_theirs / seconds:.1f}",
    ]


if __name__ == "__main__":
    main()
