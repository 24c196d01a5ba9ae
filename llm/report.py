"""What `fit` says at its end."""

from typing import Any

import lightning as L
from rich.console import Console
from rich.markup import escape

from callbacks import TextSamples, Throughput, TrainingCurve
from llm.modules import LanguageModule


def print_summary(trainer: L.Trainer, module: LanguageModule) -> None:
    """Print the run's curve, the samples before and after, the best checkpoint with its score, and the next command."""
    console = Console(highlight=False)
    found = {type(callback): callback for callback in trainer.callbacks}  # type: ignore[attr-defined]
    curve, samples, throughput = found.get(TrainingCurve), found.get(TextSamples), found.get(Throughput)
    if isinstance(curve, TrainingCurve) and len(curve.points) > 1:
        console.print(f"\n{curve.metric} over steps\n{curve.draw()}")
    if isinstance(samples, TextSamples):
        for prompt in samples.after:
            console.rule(f"{escape(repr(prompt))} before", align="left")
            console.print(f"[bold]{escape(prompt)}[/]{escape(samples.before.get(prompt, ''))}", soft_wrap=True)
            console.rule(f"{escape(repr(prompt))} after", align="left")
            console.print(f"[bold]{escape(prompt)}[/]{escape(samples.after[prompt])}", soft_wrap=True)
        console.rule()
    checkpoint = trainer.checkpoint_callback
    path = getattr(checkpoint, "best_model_path", "")
    score = getattr(checkpoint, "best_model_score", None)
    if score is not None:
        console.print(f"best checkpoint: {path}  ({float(score):.4f} bits per byte of validation text)", soft_wrap=True)
    if isinstance(throughput, Throughput):
        rate = throughput.tokens_per_second
        mfu = throughput.mfu(module, rate)
        shown = f"{mfu:.0%} of the device's matrix-product peak" if mfu is not None else "n/a"
        console.print(
            f"trained: {throughput.tokens:,} tokens in {throughput.seconds:.0f} s, {rate:,.0f} tokens/s, MFU {shown}",
            soft_wrap=True,
        )
    if path:
        console.print(
            f"next: python -m llm generate --checkpoint {path} --prompt 'def ' --max_new_tokens 200", soft_wrap=True
        )


def print_preparation(summary: dict[str, Any]) -> None:
    """Print what `PretrainDataModule.prepare` made or found."""
    console = Console(highlight=False)
    console.print(summary)
