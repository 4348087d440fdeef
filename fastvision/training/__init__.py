"""Training and evaluating classifiers, and comparing stock layers with fastvision's on the same images."""

from fastvision.training.build import ModelName, build_model
from fastvision.training.comparison import Comparison, Implementation, compare
from fastvision.training.loop import EpochResult, Evaluation, Progress, Trainer, evaluate, fit, predict
from fastvision.training.measure import Timing

__all__ = [
    "Comparison",
    "EpochResult",
    "Evaluation",
    "Implementation",
    "ModelName",
    "Progress",
    "Timing",
    "Trainer",
    "build_model",
    "compare",
    "evaluate",
    "fit",
    "predict",
]
