"""Models of the application, built from stock torch.nn layers: ``fastvision.convert`` makes them fast."""

from fastvision.models.recognition import RecognitionCNN

__all__ = ["RecognitionCNN"]
