"""What is said at the end of a run, and the table of `predict`."""

import csv
import math
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from callbacks import TextSamples, Throughput, TrainingCurve
from llm.report import print_summary, write_row_scores


def test_the_summary_quotes_what_a_shell_or_a_console_would_change(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("COLUMNS", "500")
    samples, throughput, curve = TextSamples(["[b]it's"]), Throughput(), TrainingCurve()
    samples.before, samples.after = {"[b]it's": " [red]xq"}, {"[b]it's": " [blue]day"}
    throughput.tokens, throughput.seconds, throughput._peak = 3000, 2.0, 6000.0
    curve.points = [(1, 3.0), (2, 1.0)]
    best = SimpleNamespace(best_model_path="/runs/a b/best.ckpt", best_model_score=torch.tensor(1.25))
    module: Any = SimpleNamespace(flops_per_token=2)
    trainer: Any = SimpleNamespace(callbacks=[samples, throughput, curve], checkpoint_callback=best)
    print_summary(trainer, module)
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert lines[0] == "train_loss over steps"
    before, after = (
        lines.index("""── "[b]it's" before training ──"""),
        lines.index("""── "[b]it's" after training ──"""),
    )
    assert lines[before + 1] == "[b]it's [red]xq"
    assert lines[after + 1] == "[b]it's [blue]day"
    assert lines[-3:-1] == [
        "trained: 3,000 tokens in 2 s, 1,500 tokens/s, MFU 50% of the device's matrix-product peak",
        "best checkpoint: /runs/a b/best.ckpt (1.2500 bits per byte of validation text)",
    ]
    command = ["python", "-m", "llm", "generate", "--checkpoint", "/runs/a b/best.ckpt", "--prompt", "[b]it's"]
    assert shlex.split(lines[-1].removeprefix("next: ")) == [*command, "--max_new_tokens", "200"]


def test_row_scores_are_per_target_and_per_byte_of_text(tmp_path: Path):
    token_bytes = torch.tensor([0, 1, 3])  # the first stands for no text
    module: Any = SimpleNamespace(bits_per_byte=SimpleNamespace(token_bytes=token_bytes))
    targets = torch.tensor([[0, 1, 2], [2, -100, -100], [0, -100, -100], [-100, -100, -100]])
    nll = torch.tensor([[5.0, 1.0, 2.0], [6.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    batches = [{"targets": part, "nll": scores} for part, scores in zip(targets.split(3), nll.split(3), strict=True)]
    write_row_scores(batches, module, tmp_path / "new" / "rows.csv")
    with (tmp_path / "new" / "rows.csv").open(newline="") as file:
        rows = [list(row.values()) for row in csv.DictReader(file)]
    assert rows == [
        ["0", "3", f"{8 / 3:.4f}", f"{3 / math.log(2) / 4:.4f}"],
        ["1", "1", "6.0000", f"{6 / math.log(2) / 3:.4f}"],
        ["2", "1", "1.0000", ""],
        ["3", "0", "", ""],
    ]
