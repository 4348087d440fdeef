"""Training and evaluating models of images, and comparing stock layers with fastvision's on the same images."""

from fastvision.training.build import ModelName, build_model
from fastvision.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from fastvision.training.comparison import Comparison, Implementation, compare
from fastvision.training.loop import DivergedError, EpochResult, Evaluation, Progress, Trainer, evaluate, fit, predict
from fastvision.training.measure import Timing
from fastvision.training.objectives import Judgement, Objective, classification, negative_elbo
from fastvision.training.vae_comparison import VAEComparison, VAEImplementation, compare_vae

__all__ = [
    "CheckpointError",
    "Comparison",
    "DivergedError",
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
    "load_checkpoint",
    "negative_elbo",
    "predict",
    "save_checkpoint",
]
