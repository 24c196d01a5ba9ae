"""Two real processes over gloo train a model with experts as one process does; its checkpoint writes text."""

import csv
from pathlib import Path

import pytest
import torch
from support.command_line import TINY, llm, write_texts

EXPERTS = [
    *TINY,
    "--model.gpt.n_experts=6",
    "--model.gpt.d_expert=16",
    "--model.gpt.d_shared=16",
    "--model.max_tokens=4096",
    "--model.optimizer=muon",
]


@pytest.mark.slow
def test_two_processes_train_and_balance_as_one(tmp_path: Path):
    write_texts(tmp_path)
    for name, flags in {
        "one": ["--data.batch_size=8"],
        "two": ["--data.batch_size=2", "--trainer.strategy=ddp", "--trainer.devices=2"],
    }.items():
        done = llm("fit", *EXPERTS, f"--name={name}", *flags, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "of them active" in done.stdout + done.stderr
    one, two = (tmp_path / "runs" / name for name in ("one", "two"))
    for column in ("train_loss", "largest_expert_share", "val_bpb"):
        columns = []
        for run in (one, two):
            with (run / "metrics.csv").open(newline="") as file:
                columns.append([float(row[column]) for row in csv.DictReader(file) if row[column]])
        assert len(columns[0]) == (2 if column == "val_bpb" else 16)
        assert columns[1] == pytest.approx(columns[0], rel=2e-3)
    weights = [
        torch.load(run / "checkpoints/step-00000016.ckpt", weights_only=True)["state_dict"] for run in (one, two)
    ]
    balance = [torch.cat([w for name, w in each.items() if name.endswith("balance")]) for each in weights]
    assert balance[0].abs().max() > 0.004
    # A token between two experts may fall to the other side by the rounding of a sum over ranks; its load is one.
    assert (balance[0] - balance[1]).abs().max() <= 0.00401
    assert (balance[0] != balance[1]).float().mean() < 0.2
    written = llm("generate", "--checkpoint", str(two), "--prompt", "Ab", "--max_new_tokens", "20", folder=tmp_path)
    assert written.returncode == 0, written.stderr
    assert written.stdout.startswith("Ab")
