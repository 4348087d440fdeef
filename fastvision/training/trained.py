"""Models that ``fastvision train`` or a Session has trained, read from their checkpoints."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from fastvision.data import Samples
from fastvision.training.checkpoint import CheckpointError, load_checkpoint
from fastvision.training.loop import EVALUATION_BATCH_SIZE
from fastvision.training.session import BEST, LAST, Epoch
from fastvision.training.settings import Settings


@dataclass(frozen=True)
class Trained:
    """A trained model and what it was trained on.

    Attributes:
        model: In eval mode.
        settings: What it is, and how it was trained.
        data_name: What the set of images is called.
        sample_shape: ``(C, H, W)`` of the images, or ``(features,)`` of the sequences' steps.
        classes: Their classes' names.
        history: The epochs that led to it.
        stock: Whether it runs on stock layers.
    """

    model: nn.Module
    settings: Settings
    data_name: str
    sample_shape: tuple[int, ...]
    classes: tuple[str, ...]
    history: tuple[Epoch, ...]
    stock: bool

    @property
    def is_autoencoder(self) -> bool:
        return self.settings.kind == "vae"

    @property
    def reads_images(self) -> bool:
        return len(self.sample_shape) == 3

    @property
    def title(self) -> str:
        """What it is, for people."""
        layers = "stock layers" if self.stock else "fastvision"
        return f"{self.settings.kind} ({self.settings.variant}), {layers}"

    @torch.inference_mode()
    def probabilities(self, images: Tensor) -> Tensor:
        """Of each class ``(N, classes)``, on the CPU, of images ``(N, C, H, W)``, float32 from 0 to 1; a classifier's.

        Raises:
            ValueError: Where the images have another shape than those that the model was trained on.
        """
        if images.shape[1:] != self.sample_shape:
            expected = ", ".join(map(str, self.sample_shape))
            raise ValueError(f"Trained: images: expected shape (N, {expected}), got {tuple(images.shape)}")
        device = next(self.model.parameters()).device
        scores = [self.model(part.to(device)) for part in images.split(EVALUATION_BATCH_SIZE)]
        return torch.cat(scores).softmax(-1).cpu()

    def check_fits(self, dataset: Samples) -> None:
        """Raises ValueError where the images or classes are not of the kind that the model was trained on."""
        noun = "images" if self.reads_images else "sequences"
        for what, found, expected in (
            (f"{noun} of shape", dataset.sample_shape, self.sample_shape),
            ("classes", dataset.classes, self.classes),
        ):
            if found != expected and not (what == "classes" and self.is_autoencoder):
                raise ValueError(
                    f"{dataset.name}: the model was trained on '{self.data_name}' with {what} {_listed(expected)}, "
                    f"got {_listed(found)}"
                )


def load_trained(path: str | Path, *, stock: bool = False, device: torch.device | str = "cpu") -> Trained:
    """The model of a checkpoint, or of the best epoch of a directory that a Session wrote.

    Args:
        path: A directory with ``best.pt``, or one of the files ``best.pt`` and ``last.pt``.
        stock: Whether to run it on stock layers, whatever it was trained on: the weights are the same.
        device: Where it shall run.

    Raises:
        CheckpointError: Where there is none, or it can't be read.
    """
    path = Path(path)
    if path.is_dir():
        path = next((path / name for name in (BEST, LAST) if (path / name).exists()), path / BEST)
    content = load_checkpoint(path)
    try:
        settings, data = Settings(**content["settings"]), content["data"]
        weights = content["model"] if "model" in content else content["trainer"]["model"]
        sample_shape, classes = tuple(data["sample_shape"]), tuple(data["classes"])
        history = tuple(Epoch(**epoch) for epoch in content["history"])
        model = replace(settings, stock=stock).build_model(sample_shape, len(classes))
        model.load_state_dict(weights)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: not a checkpoint of 'fastvision train', or of another version") from error
    return Trained(model.to(device).eval(), settings, data["name"], sample_shape, classes, history, stock)


def _listed(values: tuple) -> str:
    return ", ".join(map(str, values)) if isinstance(values[0], str) else "x".join(map(str, values))
