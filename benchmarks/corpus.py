"""The corpus pipeline as a whole: its rate on one core, its memory on more data, its digest however it is run.

    python benchmarks/corpus.py [--data ../shared/data] [--megabytes 40] [--times 8]
        [--only rate memory digest datasets] [--peer PYTHON]

The text is made from the C4 sample, the tiny stories and the novels in pieces: copies in which every eighth word is
drawn from the whole, so that documents differ. `rate` has all stages on; CPU time counts the processes of this
machine that did the work, over the bytes read. `memory` runs one worker on the text and on so many times as much, in a
process of its own, whose peak (VmHWM) it prints. `datasets` runs on five times the text, as a second goes into
starting our workers whatever the size. For MinHash, filters and encoding see the benchmarks of their own.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from datamodules.corpus import Curation, Engine, Pipeline

PIECE = 3000  # characters of a novel that make a document
EVERY = 8  # one word of so many is drawn anew in each copy
FILES = 8
DATASETS_TIMES = 5  # so much more text for the comparison with `datasets.map`

PROGRAM = """
import json, resource, sys, time
from pathlib import Path
from datamodules.corpus import Curation, Engine, Pipeline
began = time.perf_counter()
settings = json.loads(sys.argv[3])
made = Pipeline(sys.argv[1], curation=Curation(**settings), engine=Engine(workers=1)).prepare(Path(sys.argv[2]))
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
report = json.loads((made.folder / "report.json").read_text())
print(json.dumps({"seconds": time.perf_counter() - began, "peak": int(peak) / 1024, "bytes": report["read"]["bytes"],
                  "cpu": report["steps"], "documents": report["read"]["documents"]}))
"""


def originals(data: Path) -> list[str]:
    """The documents that everything is made from."""
    rows = (data / "c4-sample" / "c4_demo.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(row)["text"] for row in rows]
    stories = (data / "tinystories" / "tinystories_10k.txt").read_text(encoding="utf-8")
    texts += [story for story in stories.split("<|endoftext|>") if story.strip()]
    for path in sorted((data / "novels").glob("*_*.txt")):
        novel = path.read_text(encoding="utf-8")
        texts += [novel[start : start + PIECE] for start in range(0, len(novel), PIECE)]
    return texts


def make_corpus(folder: Path, texts: list[str], megabytes: float) -> Path:
    """So much text as JSON lines in several files; every document another one."""
    folder.mkdir(parents=True)
    draw = random.Random(0)
    words = " ".join(texts).split(" ")
    files = [(folder / f"{number}.jsonl").open("w", encoding="utf-8") for number in range(FILES)]
    size = number = 0
    while size < megabytes * 1e6:
        parts = texts[number % len(texts)].split(" ")
        for place in range(draw.randrange(EVERY), len(parts), EVERY):
            parts[place] = draw.choice(words)
        text = " ".join(parts)
        files[number % FILES].write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
        size += len(text.encode())
        number += 1
    for file in files:
        file.close()
    return folder


def all_stages(data: Path) -> dict[str, Any]:
    """Every stage on."""
    return {
        "repair": True,
        "whitespace": True,
        "languages": ["en"],
        "filters": {"gopher_quality": {}, "gopher_repetition": {}, "fineweb": {}},
        "duplicate_lines": "line",
        "pii": ["email", "ip", "phone", "credit_card", "iban", "key"],
        "benchmarks": [str(data / "lambada" / "lambada_test.jsonl")],
    }


def measured(corpus: Path, cache: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """One run in a process of its own."""
    command = [sys.executable, "-c", PROGRAM, str(corpus), str(cache), json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def rate(folder: Path, corpus: Path, name: str, settings: dict[str, Any]) -> Table:
    """Where the CPU time goes."""
    told = measured(corpus, folder / name, settings)
    total = sum(told["cpu"].values())
    table = Table(title=f"{name}, one worker: {told['bytes'] / 1e6:.1f} MB, {told['documents']:,} documents")
    for heading in ("step", "CPU s", "MB/s per core"):
        table.add_column(heading, justify="left" if heading == "step" else "right")
    for step, seconds in told["cpu"].items():
        table.add_row(step, f"{seconds:.2f}", f"{told['bytes'] / 1e6 / max(seconds, 1e-9):.1f}")
    table.add_row("all", f"{total:.2f}", f"{told['bytes'] / 1e6 / total:.2f}")
    table.add_row("wall", f"{told['seconds']:.2f}", f"{told['bytes'] / 1e6 / told['seconds']:.2f}")
    return table


def memory(folder: Path, texts: list[str], megabytes: float, times: int, data: Path) -> Table:
    """Peak and time on the text, and on `times` as much."""
    settings = {key: value for key, value in all_stages(data).items() if key != "languages"}
    runs = []
    for factor in (1, times):
        corpus = make_corpus(folder / f"memory-{factor}", texts, megabytes * factor)
        runs.append(measured(corpus, folder / f"cache-{factor}", settings))
    table = Table(title="one worker, all stages but language")
    for heading in ("", "MB read", "peak MB", "seconds"):
        table.add_column(heading, justify="left" if not heading else "right")
    for factor, told in zip((1, times), runs, strict=True):
        table.add_row(f"{factor} x", f"{told['bytes'] / 1e6:.1f}", f"{told['peak']:.0f}", f"{told['seconds']:.1f}")
    small, large = runs
    ratios = [large["bytes"] / small["bytes"], large["peak"] / small["peak"], large["seconds"] / small["seconds"]]
    table.add_row("ratio", *(f"{ratio:.2f}" for ratio in ratios))
    return table


def digest(folder: Path, corpus: Path) -> Table:
    """The digest of the documents, run in several ways."""
    table = Table(title="digests")
    table.add_column("run")
    table.add_column("digest")
    files = [str(path) for path in sorted(corpus.iterdir())]
    ways = {"1 worker": (files, 1), "2 workers": (files, 2), "other order": (files[::-1], 2)}
    for name, (sources, workers) in ways.items():
        pipeline = Pipeline(sources, curation=Curation(), engine=Engine(workers=workers), shard_bytes=4 << 20)
        table.add_row(name, pipeline.prepare(folder / f"digest {name}").manifest["digest"])
    return table


def against_datasets(folder: Path, corpus: Path, peer: str, repeats: int) -> Table:
    """Filter, exact duplicates and Parquet: our two workers against `datasets.map` with two processes."""
    script = Path(__file__).with_name("corpus_datasets_peer.py")
    ours, theirs = [], []
    for number in range(repeats):
        done = subprocess.run([peer, str(script), str(corpus)], capture_output=True, text=True, check=True)
        theirs.append(json.loads(done.stdout.splitlines()[-1]))
        settings = Curation(near_duplicates=None, filters={"gopher_quality": {}})
        pipeline = Pipeline(str(corpus), curation=settings, engine=Engine(workers=2))
        began = time.perf_counter()
        made = pipeline.prepare(folder / f"ours {number}")
        kept = made.manifest["counts"]["kept"]["documents"]
        ours.append({"seconds": time.perf_counter() - began, "kept": kept})
    size = sum(path.stat().st_size for path in corpus.iterdir()) / 1e6
    table = Table(title=f"filter, exact duplicates, write, {size:.0f} MB: two processes each, wall time, medians")
    for heading in ("", "seconds", "documents kept"):
        table.add_column(heading, justify="left" if not heading else "right")
    medians = [statistics.median(run["seconds"] for run in runs) for runs in (ours, theirs)]
    for name, seconds, runs in zip(("ours", "datasets.map"), medians, (ours, theirs), strict=True):
        table.add_row(name, f"{seconds:.2f}", f"{runs[0]['kept']:,}")
    table.add_row("ours is faster by", f"{medians[1] / medians[0]:.1f} x", "")
    return table


def main() -> None:
    """Print the tables that were asked for."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, default=Path("../shared/data"))
    options.add_argument("--megabytes", type=float, default=40.0)
    options.add_argument("--times", type=int, default=8)
    parts = ("rate", "memory", "digest", "datasets")
    options.add_argument("--only", nargs="*", choices=parts, default=parts)
    options.add_argument("--peer", help="the interpreter of an environment with `datasets`")
    options.add_argument("--repeats", type=int, default=3)
    chosen = options.parse_args()
    console, began = Console(), time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder, texts = Path(name), originals(chosen.data)
        corpus = make_corpus(folder / "corpus", texts, chosen.megabytes)
        if "rate" in chosen.only:
            everything = all_stages(chosen.data)
            without = {key: value for key, value in everything.items() if key != "languages"}
            for title, settings in (("defaults", {}), ("all stages but language", without), ("all stages", everything)):
                console.print(rate(folder, corpus, title, settings))
        if "memory" in chosen.only:
            console.print(memory(folder, texts, chosen.megabytes, chosen.times, chosen.data))
        if "digest" in chosen.only:
            console.print(digest(folder, corpus))
        if "datasets" in chosen.only and chosen.peer:
            larger = make_corpus(folder / "larger", texts, DATASETS_TIMES * chosen.megabytes)
            console.print(against_datasets(folder, larger, chosen.peer, chosen.repeats))
    console.print(f"{time.perf_counter() - began:.0f} s in all")


if __name__ == "__main__":
    main()
