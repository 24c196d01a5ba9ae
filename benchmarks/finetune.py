"""Useful tokens/s of instruction tuning against TRL's SFTTrainer, as shipped and packed, in one run.

    python benchmarks/finetune.py RECORDS --peers DIR [--tokenizer FOLDER] [--rounds 3] [--epochs 2] [--threads 2]

RECORDS is a file of instructions (such as instruction-data.json). DIR/trl is an environment of TRL's own, with the
version of torch that runs here:

    python -m venv DIR/trl && DIR/trl/bin/pip install torch==VERSION trl

FOLDER holds a tokenizer (such as GPT-2's encoder.json and vocab.bpe); without it one of 2,048 tokens is trained on the
records. All begin with the same random weights (a Llama, which TRL opens as a folder of transformers), take the same
records and learn the same answers. TRL runs three times: padded and packed in 32 bit, like ours, and as shipped, padded
in bfloat16 with activations computed again, beside ours in bfloat16. Useful are the tokens that are learnt: targets,
neither padding nor prompts. TRL keeps its own batch of 8 records, or 8 rows where it packs, with rows as long as ours;
ours is 8 rows as well, and all have AdamW. Each process is timed from the end of its third step on. Rounds alternate,
and medians count.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from rich.console import Console
from rich.table import Table

from datamodules import InstructionDataModule
from datamodules.records.conversations import conversation_of
from datamodules.records.reading import read_rows
from datamodules.text.tokenizer import Tokenizer
from datamodules.text.training import train_bpe
from llm.host_memory import keep_freed_memory
from llm.interop.huggingface import write_folder
from llm.interop.tokenizer_files import read_tokenizer
from llm.model import GPT, GPTConfig
from llm.modules import InstructionModule

PEER = Path(__file__).with_name("finetune_trl_peer.py")
ROW_TOKENS, ROWS, WARM_UP = 256, 8, 3
VOCABULARY = 2048
SHAPES: dict[str, dict[str, Any]] = {
    "small": {"n_layers": 4, "d_model": 256, "n_heads": 4},
    "wide": {"n_layers": 6, "d_model": 384, "n_heads": 6},
}
OURS = {"Labyrinth": "32-true", "Labyrinth in bf16": "bf16-mixed"}
PEERS = {  # the way of the peer's program, and ours in the same precision
    "TRL, padded": ("padded", "Labyrinth"),
    "TRL, packed": ("packed", "Labyrinth"),
    "TRL as shipped (padded, bf16, recomputing)": ("shipped", "Labyrinth in bf16"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", help="a file of instructions")
    parser.add_argument("--peers", type=Path, help="folder with the environment `trl`")
    parser.add_argument("--tokenizer", type=Path, help="folder of one; default: trained on the records")
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ours", type=Path, help=argparse.SUPPRESS)  # a round of ours, in a process of its own
    parser.add_argument("--precision", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ours:
        print(json.dumps(train(arguments.ours, arguments.epochs, arguments.threads, arguments.precision)))
        return
    with tempfile.TemporaryDirectory() as folder:
        Console(width=120).print(compare(arguments, Path(folder)))


def compare(arguments: argparse.Namespace, folder: Path) -> Table:
    """Time every contestant in turn."""
    prepare(folder, arguments.records, arguments.shape, arguments.tokenizer)
    ways = [*OURS, *(PEERS if arguments.peers else ())]
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(arguments.rounds):
        for way in ways:
            found[way].append(timed(way, folder, arguments))
    rates = {way: statistics.median(run["targets"] / run["seconds"] for run in runs) for way, runs in found.items()}
    table = Table(title=f"{arguments.records}: {arguments.rounds} rounds of {arguments.epochs} epochs")
    for name in ("", "useful tokens/s", "ours is", "of what is computed"):
        table.add_column(name, justify="right" if name else "left")
    for way, runs in found.items():
        useful = statistics.median(run["targets"] / run["seen"] for run in runs)
        table.add_row(
            way,
            f"{rates[way]:,.0f}",
            f"{rates[PEERS[way][1] if way in PEERS else way] / rates[way]:.2f} x",
            f"{useful:.1%}",
        )
    return table


def timed(way: str, folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """One run of a contestant, in a process of its own."""
    if way in OURS:
        rest = ["--epochs", str(arguments.epochs), "--threads", str(arguments.threads), "--precision", OURS[way]]
        command = [sys.executable, __file__, arguments.records, "--ours", str(folder), *rest]
    else:
        numbers = [arguments.epochs, arguments.threads, ROW_TOKENS, WARM_UP]
        python = arguments.peers / "trl" / "bin" / "python"
        command = [str(python), str(PEER), str(folder), PEERS[way][0], *map(str, numbers)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{way} failed:\n{done.stderr[-3000:]}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def prepare(folder: Path, records: str, shape: str, given: Path | None = None) -> None:
    """The same model and records for all: a checkpoint, a folder of transformers, and prompts with completions."""
    conversations = [conversation_of(row.fields) for row in read_rows(records)]
    texts = (message.content for turns in conversations for message in turns)
    tokenizer = Tokenizer(train_bpe(texts, VOCABULARY)) if given is None else read_tokenizer(given, {})[0]
    config = GPTConfig(
        **SHAPES[shape], vocab_size=tokenizer.vocab_size, context_length=ROW_TOKENS, norm="rmsnorm", tie_embeddings=True
    )
    model = GPT(config, seed=0)
    write_folder(folder / "model", model, tokenizer)
    lines = [{"prompt": turns[0].content, "completion": turns[-1].content} for turns in conversations]
    (folder / "model" / "records.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    for path in (folder / "model").iterdir():
        path.rename(folder / path.name)
    (folder / "labyrinth-tokenizer.json").write_text(tokenizer.to_str())
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    contents = {"gpt": config.to_dict(), "tokenizer": tokenizer.to_str(), "data_fingerprint": None}
    torch.save({"state_dict": state, "labyrinth": contents}, folder / "base.ckpt")


class Clock(L.Callback):
    """Seconds of the steps after the warm-up, with the reading of their batches, and the tokens in them."""

    def __init__(self) -> None:
        self.start = self.seconds = 0.0
        self.tokens = {"seen": 0, "targets": 0}

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step >= WARM_UP:
            self.tokens["seen"] += batch["targets"].numel()
            self.tokens["targets"] += int((batch["targets"] >= 0).sum())

    def on_train_batch_end(self, trainer: L.Trainer, *rest: Any) -> None:
        if trainer.global_step == WARM_UP:
            self.start = time.perf_counter()
        self.seconds = time.perf_counter() - self.start


def train(folder: Path, epochs: int, threads: int, precision: Any) -> dict[str, float]:
    """Our run."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    clock = Clock()
    data = InstructionDataModule(
        tokenizer=str(folder / "labyrinth-tokenizer.json"),
        sources=str(folder / "records.jsonl"),
        validation_fraction=0.0,
        context_length=ROW_TOKENS,
        global_batch_tokens=ROWS * ROW_TOKENS,
        batch_size=ROWS,
        cache_dir=str(folder / "data"),
    )
    module = InstructionModule(str(folder / "base.ckpt"), lr=2e-5)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        precision=precision,
        enable_model_summary=False,
        callbacks=[clock],
        **quiet,
    )  # type: ignore[arg-type]
    trainer.fit(module, datamodule=data)
    return {"seconds": clock.seconds, **clock.tokens}


if __name__ == "__main__":
    main()
