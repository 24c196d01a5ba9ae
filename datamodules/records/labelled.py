"""From records to texts with labels, and a split in which each class has its share and no text is on two sides."""

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import xxhash

from datamodules.errors import DataError
from datamodules.records.reading import Row
from datamodules.records.splitting import Split, key_of

log = logging.getLogger(__name__)

SHOWN = 5


class Labelled(NamedTuple):
    """A text, its labels (one, or of several classes any number), what must stay together with it, where it stands."""

    text: str
    labels: tuple[str, ...]
    group: int
    place: Callable[[], str]


def labelled_of(
    rows: Iterable[Row], text_field: str, label_field: str | None, separator: str | None
) -> tuple[list[Labelled], int]:
    """The texts of records with their labels, and how many were left out because they are empty.

    Args:
        rows: records.
        text_field: the field that is the text.
        label_field: the field that is the label; None for texts without.
        separator: between the labels of a text, where it has several; None: it has one.

    Raises:
        DataError: a field is missing: the place, and the fields that are there.
    """
    found, empty = [], 0
    for row in rows:
        for field in (text_field, label_field):
            if field is not None and field not in row.fields:
                names = ", ".join(map(repr, row.fields))
                setting = "text_field" if field == text_field else "label_field"
                raise DataError(
                    f"{row.place()} has no column {field!r}, it has {names}; set {setting} to one of them, or, where "
                    "a table has no header, columns to its names"
                )
        text = row.fields[text_field]
        if not isinstance(text, str) or not text.strip():
            empty += 1
            continue
        labels = () if label_field is None else _labels(row.fields[label_field], separator, row.place, label_field)
        group = row.fields.get("group")
        found.append(Labelled(text, labels, key_of(str(group) if group else text), row.place))
    return found, empty


def _labels(value: Any, separator: str | None, place: Callable[[], str], field: str) -> tuple[str, ...]:
    if separator is not None:
        parts = value if isinstance(value, list) else str(value if value is not None else "").split(separator)
        return tuple(sorted({str(part).strip() for part in parts if str(part).strip()}))
    if value is None or isinstance(value, list | dict) or not str(value).strip():
        raise DataError(f"{place()} has no label in {field!r} but {value!r}; give it one, or drop the record")
    return (str(value).strip(),)


def without_duplicates(texts: Sequence[Labelled]) -> list[Labelled]:
    """The first of each set of texts that differ in case, width of characters and blanks alone."""
    seen: set[int] = set()
    return [one for one in texts if (key := key_of(one.text)) not in seen and not seen.add(key)]  # type: ignore[func-returns-value]


def contradictions(texts: Sequence[Labelled]) -> int:
    """How many texts stand there with different labels."""
    labels = defaultdict(set)
    for one in texts:
        labels[key_of(one.text)].add(one.labels)
    return sum(len(found) > 1 for found in labels.values())


def stratified(texts: Sequence[Labelled], fractions: Mapping[Split, float], seed: int) -> dict[Split, list[Labelled]]:
    """Cut texts into splits, in each of which every class has its share; what is of one group stays together.

    Within each class groups are taken in the order of a hash, first for test, then for validation, until each has its
    share; the rest is for training. Only (texts, fractions, seed) decide.
    """
    groups: dict[int, list[Labelled]] = defaultdict(list)
    for one in texts:
        groups[one.group].append(one)
    classes: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for group, members in groups.items():
        most_common, _ = Counter(one.labels for one in members).most_common(1)[0]
        classes[most_common].append(group)
    splits: dict[Split, list[Labelled]] = {"train": [], "validation": [], "test": []}
    for members_of in classes.values():
        members_of.sort(key=lambda group: xxhash.xxh3_64_intdigest(group.to_bytes(8, "little"), seed=seed))
        total, taken = sum(len(groups[group]) for group in members_of), Counter[Split]()
        for group in members_of:
            size = len(groups[group])
            held: tuple[Split, ...] = ("test", "validation")
            missing = {name: fractions.get(name, 0.0) * total - taken[name] for name in held}
            # A group goes where more than half of it is still missing, so that large ones do not overfill a split.
            split: Split = next((name for name in held if missing[name] >= max(0.5, size / 2)), "train")
            taken[split] += size
            splits[split] += groups[group]
    return splits


def without_held_out(train: list[Labelled], held_out: Iterable[Labelled]) -> list[Labelled]:
    """Texts for training that do not stand in what is held out as well; those that do are named."""
    keys = {key_of(one.text) for one in held_out}
    clean = [one for one in train if key_of(one.text) not in keys]
    if len(clean) < len(train):
        both = [one.place() for one in train if key_of(one.text) in keys]
        more = f" and {len(both) - SHOWN:,} more" if len(both) > SHOWN else ""
        log.warning(
            "left out of training, as they stand in validation or test as well: %s texts: %s%s",
            f"{len(both):,}",
            "; ".join(both[:SHOWN]),
            more,
        )
    return clean
