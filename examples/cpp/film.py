"""Exports a model for the C++ program beside this file, and prints what the program has to print, too.

    python film.py film.pt2

The model sees short films: convolutions of each image, an LSTM over the images, and a sample of what it may have seen
with its KL divergence, as a variational encoder has it. The number of films and of their images is free.
"""

import sys

import torch
from torch import Tensor, nn
from torch.export import Dim

import fastvision


class FilmEncoder(nn.Module):
    """(films, images, 1, 16, 16) to samples (films, images, 4) and the KL divergence per film."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
        )
        self.remember = nn.LSTM(8 * 8 * 8, 16, batch_first=True)
        self.latents = nn.Linear(16, 8)

    def forward(self, films: Tensor) -> tuple[Tensor, Tensor]:
        seen = self.look(films.flatten(0, 1)).unflatten(0, films.shape[:2])
        mu, logvar = self.latents(self.remember(seen)[0]).chunk(2, dim=-1)
        return fastvision.ops.reparameterize_kl(mu, logvar, reduction="batchmean")


def main(path: str) -> None:
    torch.manual_seed(1)
    model = FilmEncoder().eval()
    films = torch.randn(2, 3, 1, 16, 16)
    fastvision.export(model, films, path, dynamic_shapes={"films": {0: Dim("films"), 1: Dim("images")}})

    torch.manual_seed(0)
    for result in fastvision.load(path)(torch.randn(3, 5, 1, 16, 16)):
        print(*(f"{number:.9g}" for number in result.flatten().tolist()))


if __name__ == "__main__":
    main(*sys.argv[1:])
