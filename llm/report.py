"""What the commands say at their end."""

import csv
import json
import math
import os
import shlex
from pathlib import Path
from typing import Any

import lightning as L
import torch
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from torch import Tensor, distributed

from callbacks import Answers, TextSamples, Throughput, TrainingCurve
from datamodules.corpus.reporting.report import HTML_FILE, JSON_FILE, print_report
from llm.classification_report import print_classification, write_probabilities
from llm.errors import UserError
from llm.modules import ClassificationModule, FineTuneModule, LanguageModule
from llm.sample_report import print_splits

SHOWN_CHARACTERS = 160  # of an answer
_LABELS = {
    "base_bpb": "bits per byte of the base's own text",
    "val_bpb": "bits per byte",
    "exact_match": "answers that match exactly",
    "rougeL": "ROUGE-L of the answers",
    "ended": "answers that end by themselves",
}


def print_summary(trainer: L.Trainer, module: LanguageModule) -> None:
    """Print the run's curve, the samples before and after, the best checkpoint with its score, and the next command."""
    console = Console(highlight=False, soft_wrap=True)
    found = {type(callback): callback for callback in trainer.callbacks}  # type: ignore[attr-defined]
    curve, samples, throughput = found.get(TrainingCurve), found.get(TextSamples), found.get(Throughput)
    if isinstance(curve, TrainingCurve) and len(curve.points) > 1:
        console.print(f"\n{curve.metric} over steps\n{curve.draw()}")
    if isinstance(samples, TextSamples):
        for prompt in samples.after:
            for when, text in (("before", samples.before.get(prompt, "")), ("after", samples.after[prompt])):
                console.print(f"\n[dim]── {escape(repr(prompt))} {when} training ──[/]")
                console.print(f"[bold]{escape(prompt)}[/]{escape(text)}")
    if isinstance(module, FineTuneModule) and module.before:
        answers = found.get(Answers)
        console.print(_before_and_after(module, answers if isinstance(answers, Answers) else Answers()))
    print_details(trainer, module, "val")
    console.print()
    if isinstance(throughput, Throughput):
        rate = throughput.tokens_per_second
        mfu = throughput.mfu(module, rate)
        shown = f"{mfu:.0%} of the device's matrix-product peak" if mfu is not None else "n/a"
        console.print(
            f"trained: {throughput.tokens:,} tokens in {throughput.seconds:.0f} s, {rate:,.0f} tokens/s, MFU {shown}"
        )
    best = trainer.checkpoint_callback
    path = getattr(best, "best_model_path", "")
    if path:
        path = min(path, os.path.relpath(path), key=len)
        score = getattr(best, "best_model_score", None)
        monitor = getattr(best, "monitor", "val_bpb")
        name = "bits per byte of validation text" if monitor == "val_bpb" else monitor
        console.print(f"best checkpoint: {path}" + (f" ({float(score):.4f} {name})" if score is not None else ""))
        if isinstance(module, FineTuneModule):
            console.print(f"next: {module.next_command(shlex.quote(path))}", markup=False)
            return
        prompt = samples.prompts[0] if isinstance(samples, TextSamples) and samples.prompts else "Once"
        command = f"python -m llm generate --checkpoint {shlex.quote(path)} --prompt {shlex.quote(prompt)}"
        console.print(f"next: {command} --max_new_tokens 200", markup=False)


def print_details(trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
    """Print what a kind of model has to tell beyond its scores."""
    if isinstance(module, ClassificationModule) and stage in module.scored:
        data = trainer.datamodule  # type: ignore[attr-defined]
        print_classification(module, data, stage, Path(trainer.default_root_dir))


def _before_and_after(module: FineTuneModule, answers: Answers) -> Group:
    """The scores of the model to begin with beside those of the one that came out, and some of its answers."""
    shown = []
    for question, right, said_before, said_after in answers.shown:
        shown.append(Text(f"\n{question}", style="bold"))
        for name, said in (("right", right), ("before", said_before), ("after", said_after)):
            shown.append(Text(f"{name:>8}  {said[:SHOWN_CHARACTERS]!r}"))
    table = Table(title="\nheld out", title_justify="left")
    for name in ("score", "before", "after"):
        table.add_column(name, justify="left" if name == "score" else "right")
    after = {**module.after, **answers.after}
    for name, value in {**module.before, **answers.before}.items():
        table.add_row(_LABELS.get(name, name.removeprefix("val_")), f"{value:.4f}", f"{after.get(name, math.nan):.4f}")
    return Group(*shown, table)


def print_preparation(summary: dict[str, Any]) -> None:
    """Print what a data module made or found: of a corpus its report, then tokens and tokenizer; else its splits."""
    console = Console(highlight=False, soft_wrap=True)
    if "documents_folder" not in summary:
        print_splits(summary, console)
        console.print(f"{'reused' if summary['reused'] else 'made'}: {summary['folder']}")
        return
    folder = Path(summary["documents_folder"])
    print_report(json.loads((folder / JSON_FILE).read_text(encoding="utf-8")), console)
    table = Table(title=summary["folder"], title_justify="left")
    for name in ("split", "documents", "bytes", "tokens", "bytes per token"):
        table.add_column(name, justify="left" if name == "split" else "right")
    for split in ("train", "validation"):
        counts = summary[split]
        if counts:
            numbers = [f"{counts[key]:,}" for key in ("documents", "text_bytes", "tokens")]
            table.add_row(split, *numbers, f"{counts['bytes_per_token']:.2f}")
    console.print()
    console.print(table)
    console.print(f"tokenizer: {summary['tokenizer']} ({summary['vocab_size']:,} tokens)")
    console.print(f"report to look at: {folder / HTML_FILE}", markup=False)
    console.print(f"{'reused' if summary['reused'] else 'prepared'} in {summary['seconds']:.1f} s")


def of_all_ranks(predictions: list[dict[str, Tensor]], trainer: L.Trainer) -> list[dict[str, Tensor]]:
    """What all ranks predicted, in the order of the rows, on every rank; without the rows that fill ranks up.

    Rank r of W reads rows r, r + W, ...; ranks that share their data (tensor parallel) predict the same.
    """
    whole = {name: torch.cat([batch[name].cpu() for batch in predictions]) for name in predictions[0]}
    if trainer.world_size == 1:
        return [whole]
    places: list[Any] = [None] * trainer.world_size
    distributed.all_gather_object(places, ((trainer.distributed_sampler_kwargs or {}).get("rank", 0), whole))
    shares = [share for _, share in sorted(dict(places).items())]
    rows = {name: torch.stack([share[name] for share in shares], 1).flatten(0, 1) for name in whole}
    real = (rows["targets"] >= 0).any(1) if "targets" in rows else rows["numbers"] >= 0
    return [{name: values[real] for name, values in rows.items()}]


def write_predictions(predictions: list[dict[str, Tensor]], trainer: L.Trainer, path: Path) -> None:
    """Write one line a text: its probabilities where the model classifies, else how well each row is predicted."""
    module = trainer.lightning_module
    if isinstance(module, ClassificationModule):
        write_probabilities(predictions, module, trainer.datamodule, path)  # type: ignore[attr-defined]
    elif "targets" in predictions[0]:
        assert isinstance(module, LanguageModule)
        write_row_scores(predictions, module, path)
    else:
        raise UserError("predict writes tables of text and of classes; of preferences, use test")


def write_row_scores(predictions: list[dict[str, Tensor]], module: LanguageModule, path: Path) -> None:
    """Write one line a row of text: its targets, nats per target and bits per byte, empty where it has none."""
    assert module.bits_per_byte is not None
    token_bytes = module.bits_per_byte.token_bytes.cpu()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "targets", "nats_per_target", "bits_per_byte"])
        row = 0
        for batch in predictions:
            for targets, nll in zip(batch["targets"].cpu(), batch["nll"].cpu(), strict=True):
                real = targets >= 0
                size = token_bytes[targets.clamp(min=0)] * real
                count, text_bytes = int(real.sum()), int(size.sum())
                loss = f"{float(nll.sum()) / count:.4f}" if count else ""
                bpb = f"{float(nll[size > 0].sum()) / math.log(2) / text_bytes:.4f}" if text_bytes else ""
                writer.writerow([row, count, loss, bpb])
                row += 1
