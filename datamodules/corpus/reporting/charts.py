"""Tables with bars, and histograms, as HTML and SVG: every bar stands beside its number, on a scale that is stated."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from datamodules.corpus.reporting.numbers import count, short_count
from datamodules.corpus.reporting.texts import escaped

WIDTH, HEIGHT = 640, 260  # of a histogram, in its own units; the page scales it
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 24, 56  # around its bars, for the axes


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, the exact figure to point at, and a bar of `part` (0 to 1) of the full length."""

    text: str
    exact: str = ""
    part: float | None = None

    def __str__(self) -> str:
        text = escaped(self.text)
        title = f' title="{escaped(self.exact)}"' if self.exact else ""
        if self.part is None:
            return f'<td class="number"{title}>{text}</td>'
        kind = "bar some" if self.part > 0 else "bar"  # what is not nothing is at least a pixel
        bar = f'<span class="{kind}" style="width:{100 * self.part:.2f}%"></span>'
        return (
            f'<td class="measure"{title}><div><span class="figure">{text}</span>'
            f'<span class="track" aria-hidden="true">{bar}</span></div></td>'
        )


def table(caption: str, headers: Sequence[str], rows: Sequence[tuple[str, Sequence[Cell]]]) -> str:
    """A table whose rows are a name and cells, in a frame of its own that scrolls where the page is narrow."""
    measured = [False, *(cell.part is not None for cell in rows[0][1])]
    head = "".join(
        f'<th scope="col"{" class=measure" if bar else ""}>{escaped(name)}</th>'
        for name, bar in zip(headers, measured, strict=True)
    )
    body = "".join(
        f'<tr><th scope="row"><bdi>{_breakable(name)}</bdi></th>{"".join(map(str, cells))}</tr>' for name, cells in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escaped(headers[0])}"><table>'
        f"<caption><span>{escaped(caption)}</span></caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _breakable(name: str) -> str:
    """A name such as gopher_quality.min_words, which may be broken between its words."""
    return escaped(name).replace("_", "_<wbr>").replace(".", ".<wbr>")


def histogram(
    title: str, bins: Sequence[tuple[str, int]], x_label: str, y_label: str, *, logarithmic: bool = False
) -> str:
    """Bars of counts, a bin each: (what stands under it, how many).

    A logarithmic scale starts at a half, so that a bar of 1 can be seen; an empty bin has no bar.
    """
    highest = max(number for _, number in bins)
    ticks = _powers_of_ten(highest) if logarithmic else _round_steps(highest)
    top = ticks[-1]
    inner_width, inner_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def height(number: int) -> float:
        if not number:
            return 0.0
        part = math.log(number / 0.5) / math.log(top / 0.5) if logarithmic else number / top
        return part * inner_height

    base = HEIGHT - BOTTOM
    parts = []
    for tick in ticks:
        y = base - height(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="end" x="{LEFT - 6}" y="{y + 4:.1f}">{escaped(short_count(tick))}</text>')
    step = inner_width / len(bins)
    every = math.ceil(len(bins) / 14)  # as many labels as have room
    for number, (name, value) in enumerate(bins):
        x, bar = LEFT + number * step, height(value)
        middle = x + step / 2
        if value:
            parts.append(
                f'<rect x="{x + step * 0.06:.1f}" y="{base - bar:.1f}" width="{step * 0.88:.1f}" height="{bar:.1f}">'
                f"<title>{escaped(name)}: {count(value)}</title></rect>"
            )
            parts.append(f'<text class="middle" x="{middle:.1f}" y="{base - bar - 5:.1f}">{_brief(value)}</text>')
        if number % every == 0:
            parts.append(f'<text class="middle" x="{middle:.1f}" y="{base + 18}">{escaped(name)}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>')
    parts.append(
        f'<text class="middle label" x="{LEFT + inner_width / 2:.0f}" y="{HEIGHT - 10}">{escaped(x_label)}</text>'
    )
    description = "; ".join(f"{name}: {count(value)}" for name, value in bins if value)
    return (
        f'<figure><figcaption>{escaped(title)} <span class="note">Vertical: {escaped(y_label)}.</span></figcaption>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escaped(title)}">'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escaped(title)} {escaped(description)}">'
        f"{''.join(parts)}</svg></div></figure>"
    )


def _brief(number: int) -> str:
    """A count that fits above a bar: 12,345 as 12k."""
    for unit, name in ((10**9, "G"), (10**6, "M"), (10**4, "k")):
        if number >= unit:
            return f"{number / (1000 if name == 'k' else unit):.0f}{name}"
    return count(number)


def _powers_of_ten(highest: int) -> list[int]:
    return [10**power for power in range(max(1, math.ceil(math.log10(highest))) + 1)]


def _round_steps(highest: int) -> list[int]:
    """0 and up to five even steps of 1, 2 or 5 times a power of ten, the last of them at `highest` or above."""
    power = 10 ** max(0, math.floor(math.log10(highest)) - 1)
    step = next(factor * power for factor in (1, 2, 5, 10, 20) if factor * power * 5 >= highest)
    return [step * number for number in range(math.ceil(highest / step) + 1)]
