"""Training and evaluating models of images, and comparing stock layers with fastvision's on the same images."""

from fastvision.training.build import ModelName, build_model
from fastvision.training.comparison import Comparison, Implementation, compare
from fastvision.training.loop import EpochResult, Evaluation, Progress, Trainer, evaluate, fit, predict
from fastvision.training.measure import Timing
from fastvision.training.objectives import Judgement, Objective, classification, negative_elbo
from fastvision.training.vae_comparison import VAEComparison, VAEImplementation, compare_vae

__all__ = [
    "Comparison",
    "EpochResult",
    "Evaluation",
    "Implementation",
    "Judgement",
    "ModelName",
    "Objective",
    "Progress",
    "Timing",
    "Trainer",
    "VAEComparison",
    "VAEImplementation",
    "build_model",
    "classification",
    "compare",
    "compare_vae",
    "evaluate",
    "fit",
    "negative_elbo",
    "predict",
]
