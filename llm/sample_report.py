"""What `python -m llm show` prints: samples of the training data, as the model reads them."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from datamodules.samples import Sample
from datamodules.text.tokenizer import Tokenizer

LEARNT = "bold green"


def print_samples(data: Any, n: int) -> None:
    """Prepare a data module; print `n` of its samples for training, and what its manifest says of each split."""
    console = Console(highlight=False, soft_wrap=True)
    told = data.prepare()
    data.setup("fit")
    for sample in data.samples(n):
        learnt = int(sample.is_target.sum())
        console.print()
        console.print(
            Text(f"── {sample.title}: {len(sample.ids):,} tokens, {learnt:,} of them to be learnt ──", style="dim")
        )
        console.print(decoded(sample, data.tokenizer, marks=not console.is_terminal or console.no_color))
    print_splits(told, console)


def print_splits(told: dict[str, Any], console: Console) -> None:
    """What a manifest says of each split."""
    splits = {name: counts for name, counts in told.get("splits", {}).items() if counts}
    if splits:
        console.print()
        console.print(_table(splits))


def decoded(sample: Sample, tokenizer: Tokenizer, marks: bool) -> Text:
    """The text of a sample, what is to be learnt in colour, or between « and »."""
    text = Text()
    start = 0
    for end in range(1, len(sample.ids) + 1):
        if end < len(sample.ids) and sample.is_target[end] == sample.is_target[start]:
            continue
        piece = tokenizer.decode(sample.ids[start:end].tolist())
        if sample.is_target[start]:
            text.append(f"«{piece}»" if marks else piece, style=LEARNT)
        else:
            text.append(piece)
        start = end
    return text


def _table(splits: dict[str, dict[str, Any]]) -> Table:
    """A column a split, a row for each figure."""
    table = Table(title="what there is", title_justify="left")
    table.add_column("")
    for split in splits:
        table.add_column(split, justify="right")
    for name in dict.fromkeys(name for counts in splits.values() for name in counts):
        values = [counts.get(name, "") for counts in splits.values()]
        shown = [f"{value:.1%}" if isinstance(value, float) and value <= 1 else _number(value) for value in values]
        table.add_row(name.replace("_", " "), *shown)
    return table


def _number(value: Any) -> str:
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
