"""Models of the application, built from stock torch.nn layers: ``fastvision.convert`` makes them fast."""

from fastvision.models.recognition import RecognitionCNN
from fastvision.models.sequence import SequenceClassifier

__all__ = ["RecognitionCNN", "SequenceClassifier"]
