"""One run from text to text: what it leaves, how it is resumed, how it is interrupted."""

import csv
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from support.command_line import TINY, assert_one_sentence, llm, llm_until, write_texts

from callbacks.checkpoints import checkpoints_by_step
from llm.checkpoint import load_model
from llm.cli import LabyrinthCLI


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of 32 steps, uninterrupted."""
    folder = tmp_path_factory.mktemp("finished")
    write_texts(folder)
    done = llm("fit", *TINY, "--name=whole", "--samples.prompts=[Ab, c]", "--samples.every_n_steps=16", folder=folder)
    assert done.returncode == 0, done.stderr
    (folder / "stdout.txt").write_text(done.stdout)
    return folder


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def steps(folder: Path) -> list[int]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row["train_loss"]]


def test_a_run_leaves_its_folder(finished: Path):
    run = finished / "runs" / "whole"
    assert {path.name for path in run.iterdir()} == {"config.yaml", "metrics.csv", "checkpoints", "samples.txt"}
    names = {path.name for path in (run / "checkpoints").iterdir()}
    assert names == {"best.ckpt", "step-00000024.ckpt", "step-00000032.ckpt"}
    assert steps(run) == list(range(32))
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["init_args"]["validate_every"] == 8
    text = (run / "samples.txt").read_text()
    assert text.count("=== step 16, prompt 'Ab'") == 1
    assert text.count("===") == 2 * 4  # before, at 16 and 32, after


def test_the_last_lines_name_the_best_checkpoint_and_the_next_command(finished: Path):
    lines = (finished / "stdout.txt").read_text().splitlines()
    assert "tokens/s" in lines[-3]
    assert lines[-2].startswith("best checkpoint: runs/whole/checkpoints/best.ckpt (")
    assert "bits per byte" in lines[-2]
    assert lines[-1].startswith("next: python -m llm generate --checkpoint runs/whole/checkpoints/best.ckpt")


def test_the_first_loss_is_that_of_guessing(finished: Path):
    with (finished / "runs" / "whole" / "metrics.csv").open(newline="") as file:
        first = next(csv.DictReader(file))
    assert float(first["train_loss"]) == pytest.approx(torch.tensor(300.0).log().item(), rel=0.02)


def test_a_checkpoint_opens_with_primitives_only_and_carries_its_tokenizer(finished: Path):
    checkpoint = torch.load(finished / "runs/whole/checkpoints/step-00000032.ckpt", weights_only=True)
    assert checkpoint["labyrinth"]["gpt"]["vocab_size"] == 300
    assert checkpoint["labyrinth"]["tokenizer"].startswith("{")
    assert checkpoint["global_step"] == 32
    model, tokenizer = load_model(finished / "runs/whole/checkpoints/step-00000032.ckpt")
    assert not model.training
    assert tokenizer.to_str() == checkpoint["labyrinth"]["tokenizer"]


def test_generate_from_a_copy_of_the_checkpoint_alone(finished: Path, tmp_path: Path):
    copy = tmp_path / "model.ckpt"
    copy.write_bytes((finished / "runs/whole/checkpoints/best.ckpt").read_bytes())
    runs = [
        llm(
            "generate",
            "--checkpoint",
            str(copy),
            "--prompt",
            "Ab",
            "--max_new_tokens",
            "20",
            "--seed",
            seed,
            folder=tmp_path,
        )
        for seed in ("1", "1", "2")
    ]
    assert all(run.returncode == 0 for run in runs), runs[0].stderr
    assert runs[0].stdout.startswith("Ab")
    assert runs[0].stdout == runs[1].stdout != runs[2].stdout


def test_validate_gives_the_logged_score_at_any_batch_size(finished: Path):
    with (finished / "runs/whole/metrics.csv").open(newline="") as file:
        best = min(float(row["val_bpb"]) for row in csv.DictReader(file) if row["val_bpb"])
    for size in (1, 7):
        flags = [*TINY, "--name=whole", "--ckpt_path=best", f"--data.eval_batch_size={size}"]
        done = llm("validate", *flags, folder=finished)
        assert done.returncode == 0, done.stderr
        (line,) = [line for line in done.stdout.splitlines() if "val_bpb" in line]
        assert float(line.split("│")[2]) == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_resumes_to_the_same_weights(finished: Path, stop: signal.Signals):
    name = f"stopped-{stop.name}"
    run = finished / "runs" / name
    checkpoints = run / "checkpoints"

    def ready() -> bool:
        return bool(checkpoints_by_step(checkpoints))

    code, output = llm_until("fit", *TINY, f"--name={name}", folder=finished, ready=ready, stop=stop)
    assert code == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[stop], output
    assert "Traceback" not in output
    assert ("interrupted; --ckpt_path last goes on from here" in output) == (stop != signal.SIGKILL)
    reached = max(checkpoints_by_step(checkpoints))
    assert 8 <= reached < 32, "the run ended before it was interrupted"
    if stop == signal.SIGKILL:
        # The writer may have flushed a step after the checkpoint that the run will then take again.
        metrics = run / "metrics.csv"
        header, *_ = written = metrics.read_text().splitlines()
        row = dict.fromkeys(header.split(","), "") | {"step": str(reached), "train_loss": "9"}
        metrics.write_text("\n".join([*written, ",".join(row.values())]) + "\n")
    else:
        assert steps(run) == list(range(reached)), "a step that was taken is not in the checkpoint"

    done = llm("fit", *TINY, f"--name={name}", "--ckpt_path=last", folder=finished)
    assert done.returncode == 0, done.stderr
    whole = weights(finished / "runs/whole/checkpoints/step-00000032.ckpt")
    resumed = weights(checkpoints / "step-00000032.ckpt")
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert steps(run) == list(range(32))  # one row a step: no gap, none twice
    assert not (finished / "runs" / f"{name}-2").exists()


class EndedAfter11(LabyrinthCLI):
    """Asked to end by a scheduler in step 11, between two checkpoints."""

    def before_fit(self) -> None:
        class Scheduler(L.Callback):
            def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
                if trainer.global_step == 11:
                    signal.raise_signal(signal.SIGTERM)

        self.trainer.callbacks.append(Scheduler())


def test_a_run_that_is_ended_saves_the_step_that_it_reached(finished: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(finished)
    monkeypatch.setattr(sys, "argv", ["llm"])
    assert EndedAfter11(["fit", *TINY, "--name=ended"]).exit_code == 143
    assert torch.load("runs/ended/checkpoints/step-00000011.ckpt", weights_only=True)["global_step"] == 11


class Made(LabyrinthCLI):
    """Stops before it runs."""

    def _run_subcommand(self, subcommand: str) -> None:
        self._release()


def test_only_last_goes_on_in_the_folder_of_the_run(finished: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(finished)
    monkeypatch.setattr(sys, "argv", ["llm"])
    folders = [
        Made(["fit", *TINY, "--name=whole", f"--ckpt_path={path}"]).run_folder
        for path in ("last", "best", "runs/whole/checkpoints/step-00000032.ckpt")
    ]
    assert [folder == Path("runs/whole") for folder in folders] == [True, False, False]


def test_what_the_user_left_out_comes_from_the_checkpoint(finished: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(finished)
    monkeypatch.setattr(sys, "argv", ["llm"])
    data = [flag for flag in TINY if not flag.startswith("--model.")]
    made = Made(["validate", *data, "--model.lr=0.5", "--ckpt_path=runs/whole/checkpoints/best.ckpt"])
    assert (made.model.config.d_model, made.model.hparams.validate_every, made.model.hparams.lr) == (32, 8, 0.5)


def test_what_the_user_wrote_wins_over_the_checkpoint(finished: Path):
    flags = [*TINY, "--name=more", "--model.max_tokens=9216", "--model.lr=0.5"]
    done = llm("fit", *flags, "--ckpt_path=runs/whole/checkpoints/step-00000032.ckpt", folder=finished)
    assert done.returncode == 0, done.stderr
    assert "model.lr: 0.5 as written, not 0.001 as in the checkpoint" in done.stdout
    # It branches off into a folder of its own; the run that it comes from stays as it was.
    assert steps(finished / "runs/whole") == list(range(32))
    with (finished / "runs/more/metrics.csv").open(newline="") as file:
        rates = {int(row["step"]): float(row["lr"]) for row in csv.DictReader(file) if row["lr"]}
    assert sorted(rates) == [32, 33, 34, 35]
    assert rates[32] > 0.04  # a tenth of 0.5 is the floor of the schedule; the checkpoint's own rate was 0.0001


def test_a_second_run_never_overwrites_the_first(finished: Path):
    before = {path: path.stat().st_mtime_ns for path in (finished / "runs/whole").rglob("*") if path.is_file()}
    short = [flag for flag in TINY if "max_tokens" not in flag]
    done = llm("fit", *short, "--name=whole", "--model.max_tokens=256", folder=finished)
    assert done.returncode == 0, done.stderr
    assert (finished / "runs/whole-2/checkpoints/step-00000001.ckpt").exists()
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_checkpoint_of_another_tokenizer_is_refused(finished: Path):
    flags = ["--data.vocab_size=310", "--name=other", "--ckpt_path=runs/whole/checkpoints/step-00000032.ckpt"]
    done = llm("fit", *TINY, *flags, "--model.gpt.vocab_size=300", folder=finished)
    assert_one_sentence(done.returncode, done.stderr, 1, "tokenizer has 310 ids", "gpt.vocab_size is 300")
    done = llm("fit", *TINY, *flags, folder=finished)
    assert_one_sentence(done.returncode, done.stderr, 1, "checkpoint's tokenizer differs from the data's")
    assert not (finished / "runs/other").exists()


def test_a_prompt_longer_than_the_context_is_refused(finished: Path):
    done = llm("generate", "--checkpoint", "runs/whole", "--prompt", "Ab c " * 40, folder=finished)
    assert_one_sentence(done.returncode, done.stderr, 1, "the prompt has", "context is 32")
    assert done.stdout == ""


def test_where_no_checkpoint_can_be_written_training_goes_on_and_the_end_says_so(finished: Path):
    flags = [*TINY, "--name=full", "--model.max_tokens=2048"]
    assert llm("fit", *flags, folder=finished).returncode == 0
    checkpoint = finished / "runs/full/checkpoints/step-00000008.ckpt"
    before = checkpoint.read_bytes()

    def no_file_above(size: int = 20_000) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    longer = [*TINY, "--name=full", "--ckpt_path=last"]
    done = llm("fit", *longer, folder=finished, preexec_fn=no_file_above)
    assert_one_sentence(done.returncode, done.stderr, 1, "File too large")
    assert "step 16: the checkpoint could not be saved (File too large); training goes on without it" in done.stderr
    assert steps(finished / "runs/full") == list(range(32))
    assert checkpoint.read_bytes() == before
    assert {path.name for path in checkpoint.parent.iterdir()} == {"best.ckpt", "step-00000008.ckpt"}


def test_a_damaged_checkpoint_is_named_and_the_one_before_used(finished: Path):
    assert llm("fit", *TINY, "--name=hurt", folder=finished).returncode == 0
    folder = finished / "runs/hurt/checkpoints"
    (folder / "step-00000032.ckpt").write_bytes(b"")
    middle = bytearray((folder / "step-00000024.ckpt").read_bytes())
    whole = bytes(middle)
    middle[len(middle) // 2] ^= 1
    (folder / "step-00000024.ckpt").write_bytes(middle)
    done = llm("fit", *TINY, "--name=hurt", "--ckpt_path=last", folder=finished)
    assert_one_sentence(done.returncode, done.stderr, 1, "no checkpoint in runs/hurt/checkpoints is whole")
    (folder / "step-00000024.ckpt").write_bytes(whole)
    done = llm("fit", *TINY, "--name=hurt", "--ckpt_path=last", folder=finished)
    assert done.returncode == 0, done.stderr
    assert "step-00000032.ckpt is damaged (File is not a zip file); the one before is used" in done.stderr
    assert steps(finished / "runs/hurt") == list(range(32))
    one, two = (weights(finished / "runs" / name / "checkpoints/step-00000032.ckpt") for name in ("whole", "hurt"))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_auto_starts_a_run_and_goes_on_with_it(finished: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(finished)
    monkeypatch.setattr(sys, "argv", ["llm"])
    first = LabyrinthCLI(["fit", *TINY, "--name=again", "--model.max_tokens=2048", "--ckpt_path=auto"])
    assert first.trainer.global_step == 8
    second = LabyrinthCLI(["fit", *TINY, "--name=again", "--model.max_tokens=4096", "--ckpt_path=auto"])
    assert (second.trainer.global_step, second.run_folder) == (16, Path("runs/again"))
    assert steps(finished / "runs/again") == list(range(16))
