"""What ``fastvision info MODEL`` reports."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import get_args

from rich.table import Table

from fastvision.training.model_size import ModelSize, model_size
from fastvision.training.settings import VARIANTS, Kind, Settings
from fastvision.training.trained import load_trained


@dataclass(frozen=True)
class ModelInfo:
    """A model: what it is called, for which images, and how large it is."""

    model: str
    sample_shape: tuple[int, ...]
    classes: int
    size: ModelSize


def describe(model: str, image_shape: tuple[int, int, int], classes: int) -> list[ModelInfo]:
    """All variants of a kind of model, or the one of a checkpoint or of a directory of ``fastvision train``.

    Raises:
        ValueError: Where it is none of these, or the images are too small for it.
    """
    if model in get_args(Kind):
        return [
            ModelInfo(variant, image_shape, classes, _size(Settings(model, variant=variant), image_shape, classes))
            for variant in VARIANTS[model]
        ]
    if not Path(model).exists():
        raise ValueError(f"'{model}' is no checkpoint and none of {', '.join(get_args(Kind))}")
    trained = load_trained(model)
    size = _size(trained.settings, trained.sample_shape, len(trained.classes))
    return [ModelInfo(trained.title, trained.sample_shape, len(trained.classes), size)]


def _size(settings: Settings, sample_shape: tuple[int, ...], classes: int) -> ModelSize:
    return model_size(replace(settings, stock=True).build_model(sample_shape, classes), sample_shape)


def models_table(models: list[ModelInfo]) -> Table:
    """A row for each."""
    shape = models[0].sample_shape
    samples = f"{'x'.join(map(str, shape))} images" if len(shape) == 3 else f"Sequences of {shape[0]} features"
    table = Table(title=f"{samples}, {models[0].classes} classes")
    table.add_column("model")
    for name in ("parameters", "MB", "MFLOPs"):
        table.add_column(name, justify="right")
    for each in models:
        size = each.size
        table.add_row(each.model, f"{size.parameters:,}", f"{size.bytes / 1e6:.2f}", f"{size.flops / 1e6:,.1f}")
    table.caption = "MB of float32 weights; operations of one image (or step), a multiply-add counted as two"
    return table


def model_facts(models: list[ModelInfo]) -> list[dict]:
    """The same, with bytes and FLOPs as whole numbers."""
    facts = [asdict(each) for each in models]
    return [fact | fact.pop("size") for fact in facts]
