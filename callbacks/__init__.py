"""Lightning callbacks, each of use in any Lightning project."""

from callbacks.curve import TrainingCurve
from callbacks.interruption import InterruptBetweenSteps
from callbacks.progress import Progress
from callbacks.samples import TextSamples
from callbacks.throughput import Throughput

__all__ = ["InterruptBetweenSteps", "Progress", "TextSamples", "Throughput", "TrainingCurve"]
