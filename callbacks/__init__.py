"""Lightning callbacks, each of use in any Lightning project."""

from callbacks.answers import Answers
from callbacks.checkpoints import Checkpoints
from callbacks.curve import TrainingCurve
from callbacks.guard import Diverged, Guard, fit_with_rollback
from callbacks.interruption import Interrupted, Interruption
from callbacks.progress import Progress
from callbacks.sample_log import SampleLog
from callbacks.samples import TextSamples
from callbacks.statistics import Statistics
from callbacks.throughput import Throughput

__all__ = [
    "Answers",
    "Checkpoints",
    "Diverged",
    "Guard",
    "Interrupted",
    "Interruption",
    "Progress",
    "SampleLog",
    "Statistics",
    "TextSamples",
    "Throughput",
    "TrainingCurve",
    "fit_with_rollback",
]
