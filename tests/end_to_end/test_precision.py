"""`--trainer.precision` on the real command line: what must stay in float32 does (B18), and every way trains."""

import csv
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support.command_line import TINY, write_texts

import llm.model.gpt as gpt
from llm.cli import LabyrinthCLI

MEMORY = ["--model.activation_checkpointing=selective", "--model.state_dtype=bfloat16", "--model.z_loss=1e-4"]


@pytest.mark.parametrize(
    ("precision", "flags"),
    [
        ("32-true", MEMORY),
        ("bf16-mixed", MEMORY),
        ("bf16-true", []),
        ("bf16-true", [*MEMORY, "--model.optimizer=muon"]),
    ],
)
def test_angles_are_exact_and_the_loss_falls_under_every_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, flags: list[str]
) -> None:
    seen: set[tuple[torch.dtype, int]] = set()
    plain = gpt.rotary_angles

    def watched(positions: torch.Tensor, *shape: Any) -> Any:
        cos, sin = plain(positions, *shape)
        far, _ = plain(
            torch.arange(1024), *shape
        )  # of the fastest pair 1,024 positions have 1,024 angles; bfloat16 keeps 513
        seen.update({(cos.dtype, 0), (sin.dtype, 0), (far.dtype, len(far[..., 0].flatten().unique()))})
        return cos, sin

    write_texts(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["llm"])
    monkeypatch.setattr(gpt, "rotary_angles", watched)
    made = LabyrinthCLI(["fit", *TINY, "--name=run", "--model.lr=0.01", f"--trainer.precision={precision}", *flags])
    assert {dtype for dtype, _ in seen} == {torch.float32}
    assert max(count for _, count in seen) > 1000
    weights = {parameter.dtype for parameter in made.model.parameters()}
    assert weights == {torch.bfloat16 if precision == "bf16-true" else torch.float32}
    with Path("runs/run/metrics.csv").open(newline="") as file:
        losses = [float(row["train_loss"]) for row in csv.DictReader(file) if row["train_loss"]]
    assert losses[-1] < losses[0] - 0.5
    checkpoint = torch.load(
        "runs/run/checkpoints/step-00000032.ckpt", weights_only=True
    )  # primitives and tensors alone
    assert checkpoint["global_step"] == 32
