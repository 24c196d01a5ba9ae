"""Two real processes over gloo give the losses, scores and weights of one (B1, B4, B5, B24)."""

import csv
from pathlib import Path

import pytest
import torch
from support.command_line import TINY, llm, write_texts


def rows(run: Path, column: str) -> list[float]:
    with (run / "metrics.csv").open(newline="") as file:
        return [float(row[column]) for row in csv.DictReader(file) if row[column]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ddp")
    write_texts(folder)
    for name, flags in {
        "one": ["--data.batch_size=8"],
        "two": ["--data.batch_size=2", "--trainer.strategy=ddp", "--trainer.devices=2"],
    }.items():
        done = llm("fit", *TINY, "--model.gpt.ngram_order=3", f"--name={name}", *flags, folder=folder)
        assert done.returncode == 0, done.stderr
    return folder / "runs"


@pytest.mark.parametrize("column", ["train_loss", "val_loss", "val_bpb", "lr"])
def test_the_same_numbers_as_in_one_process(folder: Path, column: str):
    one, two = rows(folder / "one", column), rows(folder / "two", column)
    assert len(one) == len(two) == (4 if column.startswith("val") else 32)
    assert two == pytest.approx(one, rel=1e-4)


def test_the_same_weights_as_in_one_process(folder: Path):
    one, two = (torch.load(folder / n / "checkpoints/step-00000032.ckpt", weights_only=True) for n in ("one", "two"))
    for name, weight in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][name], weight, rtol=1e-3, atol=1e-4)


def test_both_processes_share_one_run_folder(folder: Path):
    assert sorted(path.name for path in folder.iterdir()) == ["one", "two"]


@pytest.mark.slow
def test_predict_writes_every_row_once_whatever_the_number_of_processes(folder: Path):
    flags = [flag for flag in TINY if not flag.startswith("--model.")]
    tables = []
    for number, more in enumerate(([], ["--trainer.strategy=ddp", "--trainer.devices=2"])):
        where = [f"--runs=table-{number}", f"--ckpt_path={folder / 'one/checkpoints/best.ckpt'}", "--name=one"]
        done = llm("predict", *flags, *where, *more, folder=folder.parent)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(".csv") == 1
        with (folder.parent / f"table-{number}/one-rows.csv").open(newline="") as file:
            tables.append([(row["row"], row["targets"], float(row["bits_per_byte"])) for row in csv.DictReader(file)])
    assert len(tables[0]) == len(tables[1]) > 10
    for one, other in zip(*tables, strict=True):
        assert other[:2] == one[:2]
        assert other[2] == pytest.approx(one[2], abs=2e-4)
