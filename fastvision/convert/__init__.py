"""Finding and replacing stock layers in existing models."""

from fastvision.convert.api import convert, revert
from fastvision.convert.report import Report, Row, explain

__all__ = ["Report", "Row", "convert", "explain", "revert"]
