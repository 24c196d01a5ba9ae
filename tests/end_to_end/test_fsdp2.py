"""Two real processes that share one model over gloo: the numbers of one process, and checkpoints that any run opens."""

import csv
import json
import pickle
import resource
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from support.command_line import TINY, assert_one_sentence, llm, write_texts

from llm.checkpoint import damage, load_model, read_checkpoint
from llm.checkpoint_folder import MANIFEST, SafeReader, is_folder_checkpoint

SHAPE = "--model.gpt={n_layers: 2, d_model: 32, n_heads: 4, n_kv_heads: 2, head_dim: 8, d_ff: 64, qk_norm: true}"
FIT = ["fit", *TINY, SHAPE, "--model.optimizer=muon", "--checkpoints.keep_every_n_steps=16"]
FSDP2 = ["--trainer.devices=2", "--trainer.strategy=fsdp2"]
TENSOR = ["--trainer.devices=2", "--trainer.strategy=FSDP2", "--trainer.strategy.tensor_parallel_size=2"]
LAST, MIDDLE = "checkpoints/step-00000032.ckpt", "checkpoints/step-00000016.ckpt"


def losses(run: Path, column: str = "train_loss") -> dict[int, float]:
    with (run / "metrics.csv").open(newline="") as file:
        return {int(row["step"]): float(row[column]) for row in csv.DictReader(file) if row[column]}


def identical(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(identical(one[key], other[key]) for key in one)
    return all(map(identical, one, other)) if isinstance(one, list) else bool(one == other)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run by one process, and by two that share it."""
    folder = tmp_path_factory.mktemp("fsdp2")
    write_texts(folder)
    fit(folder, "one", "--samples.prompts=[Once]", "--samples.temperature=0")
    fit(folder, "two", "--samples.prompts=[Once]", "--samples.temperature=0", *FSDP2)
    return folder


def fit(folder: Path, name: str, *flags: str) -> Path:
    done = llm(*FIT, f"--name={name}", *flags, folder=folder)
    assert done.returncode == 0, done.stderr
    return folder / "runs" / name


@pytest.mark.parametrize("column", ["train_loss", "grad_norm", "val_bpb"])
def test_the_same_numbers_as_in_one_process(folder: Path, column: str):
    one, two = (losses(folder / "runs" / name, column) for name in ("one", "two"))
    assert len(one) == (4 if column == "val_bpb" else 32)
    assert two == pytest.approx(one, rel=1e-4)


def test_the_folder_holds_what_the_file_of_one_process_holds(folder: Path):
    one, two = (read_checkpoint(folder / "runs" / name / LAST) for name in ("one", "two"))
    assert is_folder_checkpoint(folder / "runs/two" / LAST)
    assert one.keys() == two.keys()
    for key in ("labyrinth", "hyper_parameters", "global_step", "lr_schedulers"):
        assert one[key] == two[key], key
    for name, weight in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][name], weight, rtol=1e-3, atol=1e-4)
    (ours,), (theirs,) = one["optimizer_states"], two["optimizer_states"]
    assert ours["param_groups"] == theirs["param_groups"]
    for place, state in ours["state"].items():
        for name, value in state.items():
            torch.testing.assert_close(theirs["state"][place][name], value, rtol=1e-3, atol=1e-4)


def test_both_write_the_same_samples(folder: Path):
    one, two = ((folder / "runs" / name / "samples.txt").read_text() for name in ("one", "two"))
    assert one.split("=== step 32")[0] == two.split("=== step 32")[0]  # the same starting weights
    assert two.count("=== step") == 2


@pytest.mark.slow
def test_consolidate_generate_and_export_take_the_folder(folder: Path, tmp_path: Path):
    sharded, file = folder / "runs/two" / LAST, tmp_path / "whole.ckpt"
    done = llm("consolidate", f"--checkpoint={folder / 'runs/two'}", f"--output={file}", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{file}: step 32, ")
    assert identical(read_checkpoint(sharded), torch.load(file, weights_only=True))
    said = [
        llm(
            "generate",
            f"--checkpoint={path}",
            "--prompt=Once",
            "--temperature=0",
            "--max_new_tokens=9",
            folder=tmp_path,
        )
        for path in (sharded, file)
    ]
    assert [done.returncode for done in said] == [0, 0], said[0].stderr
    assert said[0].stdout == said[1].stdout
    assert "Warning" not in said[0].stderr
    exported = llm("export", f"--checkpoint={sharded}", "--to=hf", "--output=hf", folder=tmp_path)
    assert exported.returncode == 0, exported.stderr
    assert "verified: " in exported.stdout
    again = llm("consolidate", f"--checkpoint={sharded}", f"--output={file}", folder=tmp_path)
    assert_one_sentence(again.returncode, again.stderr, 1, "exists already")
    one = llm("consolidate", f"--checkpoint={folder / 'runs/one'}", "--output=x.ckpt", folder=tmp_path)
    assert_one_sentence(one.returncode, one.stderr, 1, "is one file already")


def test_a_damaged_folder_is_named(folder: Path, tmp_path: Path):
    assert damage(folder / "runs/two" / LAST) is None
    copy = tmp_path / "step-00000032.ckpt"
    for change, told in {
        "truncated": "bytes instead of",
        "flipped": "the digest of __1_0.distcp is wrong",
        "missing": "__1_0.distcp is missing",
        "no manifest": "manifest.json cannot be read",
    }.items():
        shutil.copytree(folder / "runs/two" / LAST, copy)
        shard = copy / "__1_0.distcp"
        content = bytearray(shard.read_bytes())
        if change == "truncated":
            shard.write_bytes(content[:-7])
        elif change == "flipped":
            content[len(content) // 2] ^= 1
            shard.write_bytes(content)
        elif change == "missing":
            shard.unlink()
        else:
            (copy / MANIFEST).unlink()
        assert told in str(damage(copy)), change
        shutil.rmtree(copy)


def test_what_stands_in_a_list_of_contents_is_not_run(folder: Path, tmp_path: Path):
    class Trap:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return Path.touch, (tmp_path / "sprung",)  # type: ignore[return-value]

    copy = tmp_path / "step-00000032.ckpt"
    shutil.copytree(folder / "runs/two" / LAST, copy)
    (copy / ".metadata").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(pickle.UnpicklingError, match="names"):
        SafeReader(copy).read_metadata()
    done = llm("generate", f"--checkpoint={copy}", "--prompt=x", folder=tmp_path)
    assert_one_sentence(done.returncode, done.stderr, 1, "is not a readable checkpoint (UnpicklingError)")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--trainer.strategy=fsdp"], "fsdp needs a CUDA device: on a CPU take fsdp2"),
        (["--trainer.strategy=fspd2"], "'fspd2' is not known; did you mean 'fsdp2'?"),
        ([*FSDP2, "--trainer.precision=16-mixed"], "16-mixed does not go with fsdp2"),
        ([*TENSOR[:2], "--trainer.strategy.tensor_parallel_size=3"], "tensor_parallel_size 3 does not divide the 2"),
    ],
)
def test_what_cannot_be_had_is_told_in_one_sentence(folder: Path, flags: list[str], told: str):
    flags = flags if any("devices" in flag for flag in flags) else ["--trainer.devices=2", *flags]
    done = llm(*FIT, "--name=refused", *flags, folder=folder)
    assert_one_sentence(done.returncode, done.stderr, 1, told)
    assert not (folder / "runs/refused").exists()


@pytest.mark.slow
def test_heads_that_cannot_be_cut_are_told_once(folder: Path):
    done = llm(*FIT, *TENSOR, "--model.gpt.n_kv_heads=1", "--name=refused", folder=folder)
    assert_one_sentence(done.returncode, done.stderr, 1, "n_kv_heads 1 is not divisible by tensor_parallel_size 2")
    assert done.stderr.count("error:") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "flags", "tolerance"),
    [
        ("tensor", TENSOR, 1e-4),
        ("checkpointed", [*FSDP2, "--model.activation_checkpointing=full"], 1e-4),
        ("gathered", [*TENSOR[:2], "--trainer.strategy.save_distributed_checkpoint=false"], 1e-4),
        ("workers", [*FSDP2, "--data.num_workers=2", "--data.batch_size=1"], 1e-4),
    ],
)
def test_other_ways_to_share_a_run(folder: Path, name: str, flags: list[str], tolerance: float):
    run = fit(folder, name, *flags)
    assert losses(run) == pytest.approx(losses(folder / "runs/one"), rel=tolerance)
    assert (run / LAST).is_dir() == (name != "gathered")
    load_model(run / LAST)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one", "two"])
@pytest.mark.parametrize("flags", [[], FSDP2, TENSOR], ids=["on one", "on two", "tensor parallel"])
def test_a_run_goes_on_under_another_strategy(folder: Path, name: str, flags: list[str], tmp_path: Path):
    path = folder / "runs" / name / MIDDLE
    run = fit(folder, f"{name}-{tmp_path.name}", *flags, f"--ckpt_path={path}")
    whole = losses(folder / "runs/one")
    assert losses(run) == pytest.approx({step: whole[step] for step in range(16, 32)}, rel=1e-4)


@pytest.mark.slow
def test_on_the_same_processes_it_goes_on_bit_for_bit(folder: Path):
    dropout = ["--model.gpt.dropout=0.1", *FSDP2]
    whole = fit(folder, "whole", *dropout)
    resumed = fit(folder, "resumed", *dropout, f"--ckpt_path={whole / MIDDLE}")
    one, other = read_checkpoint(whole / LAST), read_checkpoint(resumed / LAST)
    assert identical(one["state_dict"], other["state_dict"])
    assert identical(one["optimizer_states"], other["optimizer_states"])
    assert {step: loss for step, loss in losses(whole).items() if step >= 16} == losses(resumed)


@pytest.mark.slow
def test_last_takes_the_one_before_a_damaged_one(folder: Path):
    run = fit(folder, "damaged", *FSDP2, "--model.max_tokens=8192")
    files = json.loads((run / LAST / MANIFEST).read_text())["files"]
    assert {"__0_0.distcp", "__1_0.distcp", "skeleton.pt", ".metadata"} == set(files)
    (run / LAST / "__0_0.distcp").write_bytes(b"half")
    done = llm(*FIT, "--name=damaged", *FSDP2, "--ckpt_path=last", folder=folder)
    assert done.returncode == 0, done.stderr
    assert "step-00000032.ckpt is damaged (__0_0.distcp has 4 bytes instead of" in done.stderr
    assert damage(run / LAST) is None  # made anew


@pytest.mark.slow
def test_half_precision_is_close_and_learns(folder: Path):
    one = fit(folder, "half-one", "--trainer.precision=bf16-mixed")
    two = fit(folder, "half-two", *FSDP2, "--trainer.precision=bf16-mixed")
    assert losses(two) == pytest.approx(losses(one), rel=2e-3)
    assert losses(two)[31] < losses(two)[0] - 0.1
    weights = read_checkpoint(two / LAST)["state_dict"]
    assert {weight.dtype for weight in weights.values()} == {torch.float32}


@pytest.mark.slow
def test_where_a_process_cannot_write_its_part_training_goes_on_and_the_end_says_so(folder: Path):
    def no_file_above(size: int = 30_000) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    done = llm(*FIT, "--name=full", *FSDP2, folder=folder, preexec_fn=no_file_above)
    assert_one_sentence(done.returncode, done.stderr, 1, "File too large")
    assert "step 8: the checkpoint could not be saved (File too large); training goes on without it" in done.stderr
    assert sorted(losses(folder / "runs/full")) == list(range(32))
    assert not list((folder / "runs/full/checkpoints").glob("*"))
    assert not list((folder / "runs/full/checkpoints").glob(".*"))
