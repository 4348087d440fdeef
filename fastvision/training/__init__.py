"""Training and evaluating models of images, and comparing stock layers with fastvision's on the same images."""

from fastvision.training.attribution import attribute
from fastvision.training.build import ModelName, build_model
from fastvision.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from fastvision.training.comparison import Comparison, Implementation, compare
from fastvision.training.loop import DivergedError, EpochResult, Evaluation, Progress, Trainer, evaluate, fit, predict
from fastvision.training.measure import Timing
from fastvision.training.objectives import Judgement, Objective, classification, negative_elbo
from fastvision.training.reports import (
    AutoencoderReport,
    ClassificationReport,
    autoencoder_report,
    classification_report,
)
from fastvision.training.session import Session
from fastvision.training.settings import Settings
from fastvision.training.trained import Trained, load_trained
from fastvision.training.vae_comparison import VAEComparison, VAEImplementation, compare_vae

__all__ = [
    "AutoencoderReport",
    "CheckpointError",
    "ClassificationReport",
    "Comparison",
    "DivergedError",
    "EpochResult",
    "Evaluation",
    "Implementation",
    "Judgement",
    "ModelName",
    "Objective",
    "Progress",
    "Session",
    "Settings",
    "Timing",
    "Trained",
    "Trainer",
    "VAEComparison",
    "VAEImplementation",
    "attribute",
    "autoencoder_report",
    "build_model",
    "classification",
    "classification_report",
    "compare",
    "compare_vae",
    "evaluate",
    "fit",
    "load_checkpoint",
    "load_trained",
    "negative_elbo",
    "predict",
    "save_checkpoint",
]
