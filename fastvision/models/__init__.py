"""Models of the application, built from stock torch.nn layers: ``fastvision.convert`` makes them fast.

What torch.nn does not have, an autoencoder's sample and loss, is stock or fused by an argument.
"""

from fastvision.models.recognition import PRESETS, RecognitionCNN
from fastvision.models.sequence import SequenceClassifier
from fastvision.models.vae import VAE, ConvVAE

__all__ = ["PRESETS", "VAE", "ConvVAE", "RecognitionCNN", "SequenceClassifier"]
