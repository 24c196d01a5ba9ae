"""Targets are shifted once: a model that has read the alphabet goes on with the next letter, not the one after (B9)."""

import string
from pathlib import Path

from support.command_line import TINY, llm


def test_the_alphabet_is_learnt_letter_by_letter(tmp_path: Path):
    (tmp_path / "texts").mkdir()
    letters = " ".join(string.ascii_lowercase * 300)
    (tmp_path / "texts" / "alphabet.txt").write_text(letters)
    flags = [*TINY, "--data.vocab_size=282", "--model.max_tokens=76800", "--model.lr=0.01", "--name=alphabet"]
    done = llm("fit", *flags, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    done = llm(
        *("generate", "--checkpoint", "runs/alphabet", "--prompt", "c d e f g"),
        *("--max_new_tokens", "6", "--temperature", "0"),
        folder=tmp_path,
    )
    assert done.stdout.strip().startswith("c d e f g h i j"), done.stdout
