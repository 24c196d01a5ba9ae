"""The curve of a run, drawn with characters."""

from typing import Any

import lightning as L
from lightning.pytorch.utilities.types import STEP_OUTPUT

# A Braille character is 2 x 4 dots; the bit of each dot by (column, row), from the Unicode chart U+2800.
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))


def draw_curve(points: list[tuple[float, float]], width: int = 64, height: int = 10) -> str:
    """Draw y over x as lines of Braille characters with the axes' end values.

    Args:
        points: (x, y) in order of x; NaN and infinite y are left out.
        width: characters across.
        height: lines.
    """
    points = [(x, y) for x, y in points if abs(y) < float("inf")]
    if len(points) < 2:
        return "(too few points for a curve)"
    columns, rows = 2 * width, 4 * height
    left, right = points[0][0], points[-1][0]
    low, high = min(y for _, y in points), max(y for _, y in points)
    cells = [[0] * width for _ in range(height)]
    following, previous = 0, None
    for column in range(columns):
        x = left + (right - left) * column / (columns - 1)
        while following < len(points) - 2 and points[following + 1][0] < x:
            following += 1
        (x0, y0), (x1, y1) = points[following], points[following + 1]
        share = min(1.0, max(0.0, (x - x0) / (x1 - x0))) if x1 > x0 else 1.0
        y = y0 + share * (y1 - y0)
        row = round((high - y) / (high - low) * (rows - 1)) if high > low else rows // 2
        for dot in range(min(row, previous), max(row, previous) + 1) if previous is not None else [row]:
            cells[dot // 4][column // 2] |= _DOTS[column % 2][dot % 4]
        previous = row
    labels = [""] * height
    labels[-1], labels[0] = f"{low:.2f}", f"{high:.2f}"
    margin = max(map(len, labels))
    lines = [
        f"{label:>{margin}} │" + "".join(chr(0x2800 + cell) for cell in line)
        for label, line in zip(labels, cells, strict=True)
    ]
    start, end = f"{left:g}", f"{right:,.0f}"
    axis = " " * margin + " └" + "─" * width
    return "\n".join([*lines, axis, " " * (margin + 2) + start + end.rjust(width - len(start))])


def running_mean(points: list[tuple[float, float]], reach: int) -> list[tuple[float, float]]:
    """Each y replaced by the mean of itself and of up to `reach` values on either side, equally many on both."""
    smoothed = []
    for i, (x, _) in enumerate(points):
        around = min(reach, i, len(points) - 1 - i)
        values = [y for _, y in points[i - around : i + around + 1]]
        smoothed.append((x, sum(values) / len(values)))
    return smoothed


class TrainingCurve(L.Callback):
    """Keep one logged metric over the steps of a run, and draw it on request.

    At most `MAX_POINTS` are kept: when there are more, every second one is dropped.

    Args:
        metric: name under which the module logs it.
    """

    MAX_POINTS = 4096

    def __init__(self, metric: str = "train_loss") -> None:
        self.metric = metric
        self.points: list[tuple[float, float]] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        """Note the value at the first step and at every logging step; reading metrics is not free."""
        step, every = trainer.global_step, trainer.log_every_n_steps  # type: ignore[attr-defined]
        if trainer.fit_loop._should_accumulate() or (step != 1 and step % every):
            return
        value = trainer.callback_metrics.get(self.metric)
        if value is not None:
            self.points.append((step, float(value)))
            if len(self.points) > self.MAX_POINTS:
                del self.points[1::2]

    def draw(self, width: int = 64, height: int = 10) -> str:
        """The curve so far; in a long run each value is the mean of those around it, as single steps are noisy."""
        return draw_curve(running_mean(self.points, len(self.points) // 48), width, height)

    def state_dict(self) -> dict[str, Any]:
        """Kept in checkpoints, so that a resumed run draws its whole curve."""
        return {"points": self.points}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.points = [(float(x), float(y)) for x, y in state_dict["points"]]
