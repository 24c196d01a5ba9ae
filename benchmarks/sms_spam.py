"""SMS spam: a small model, pretrained here in minutes and tuned to classify, beside TF-IDF + logistic regression.

    python benchmarks/sms_spam.py SMSSpamCollection --texts PATH [PATH ...] [--tokens 3000000] [--seeds 3] [--work DIR]

SMSSpamCollection is the UCI file, label and text with a tab between. Equal messages are removed first, and the rest is
split 70/10/20 by a seed of its own, each class with its share. The model is pretrained on TEXTS and on the messages for
training, without their labels: what is held out is in neither. Settings are chosen on validation; the table is of test.
Runs the commands that a user would, in DIR.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from datamodules.records.labelled import labelled_of, stratified, without_duplicates
from datamodules.records.reading import read_rows

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = ["label", "text"]  # it has no header
FRACTIONS = (0.1, 0.2)  # of validation and test
SHOWN = ("accuracy", "f1", "macro_f1", "auroc", "ece", "ece_scaled")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("messages", type=Path, help="SMSSpamCollection")
    parser.add_argument("--texts", nargs="+", default=[], help="other texts for pretraining")
    parser.add_argument("--tokens", type=int, default=3_000_000, help="of pretraining")
    parser.add_argument("--seeds", type=int, default=3, help="splits, each with a model of its own")
    parser.add_argument("--work", type=Path, help="folder to work in; default: a temporary one")
    parser.add_argument(
        "--flags", nargs="*", default=[], help="more settings of the classifier, such as model.lr=0.001"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = (arguments.work or Path(folder)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        shutil.copy(arguments.messages, work / "sms.tsv")
        for seed in range(arguments.seeds):
            Console(width=120).print(one_split(seed, arguments, work))


def one_split(seed: int, arguments: argparse.Namespace, work: Path) -> Table:
    """Pretrain, tune and test on one split."""
    texts, _ = labelled_of(read_rows(str(work / "sms.tsv"), COLUMNS), "text", "label", None)
    cut = stratified(without_duplicates(texts), {"validation": FRACTIONS[0], "test": FRACTIONS[1]}, seed)
    own = work / f"train-{seed}.jsonl"
    own.write_text("".join(json.dumps({"text": one.text}) + "\n" for one in cut["train"]))
    sources = [str(own), *(str(Path(text).resolve()) for text in arguments.texts)]
    start, cpu = time.perf_counter(), used()
    llm(
        work, "fit", "--config", "quickstart", f"--name=base-{seed}", f"--data.sources={json.dumps(sources)}",
        f"--model.max_tokens={arguments.tokens}", "--samples.prompts=[]", "--data.context_length=128",
        "--model.validate_every=500",
    )  # fmt: skip
    seconds, cpu = time.perf_counter() - start, used() - cpu
    data = [
        "--data=ClassificationDataModule", "--data.sources=sms.tsv", f"--data.columns={json.dumps(COLUMNS)}",
        "--data.drop_duplicates=true",
        f"--data.split_seed={seed}", f"--data.validation_fraction={FRACTIONS[0]}",
        f"--data.test_fraction={FRACTIONS[1]}", f"--name=sms-{seed}", "--model=ClassificationModule",
        f"--model.checkpoint=runs/base-{seed}", "--checkpoints.monitor=val_loss", "--model.validate_every=50",
        "--trainer.max_epochs=4", "--model.lr=0.001", "--model.schedule=linear", "--model.min_lr=0",
    ]  # fmt: skip
    data += [f"--{flag}" for flag in arguments.flags]
    llm(work, "fit", *data)
    llm(work, "test", *data, f"--ckpt_path=runs/sms-{seed}/checkpoints/best.ckpt")
    found: dict[str, Any] = json.loads((work / "runs" / "classification.json").read_text())
    title = f"split {seed}: {found['texts']} messages of test; pretrained in {seconds:.0f} s, {cpu:.0f} s of CPU time"
    table = Table("", *SHOWN, title=title, title_justify="left")
    for method, values in found["methods"].items():
        table.add_row(method, *(f"{values[name]:.4f}" for name in SHOWN))
    return table


def used() -> float:
    """Seconds of CPU time that ended children have taken."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def llm(work: Path, *arguments: str) -> None:
    """Run a command; what went wrong ends the benchmark."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "llm", *arguments]
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")


if __name__ == "__main__":
    main()
