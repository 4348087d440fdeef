"""Variational autoencoders as they are mostly written."""

import torch
import torch.nn.functional as F
from torch import nn


class VAE(nn.Module):
    """PyTorch's example, with its loss in the forward."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc21, self.fc22 = nn.Linear(12, 8), nn.Linear(8, 3), nn.Linear(8, 3)
        self.fc3, self.fc4 = nn.Linear(3, 8), nn.Linear(8, 12)

    def encode(self, x):
        h1 = F.relu(self.fc1(x))
        return self.fc21(h1), self.fc22(h1)

    def reparameterize(self, mu, logvar):
        std = torch.exp(0.5 * logvar)
        eps = torch.randn_like(std)
        return mu + eps * std

    def decode(self, z):
        h3 = F.relu(self.fc3(z))
        return torch.sigmoid(self.fc4(h3))

    def forward(self, x):
        x = x.view(-1, 12)
        mu, logvar = self.encode(x)
        recon = self.decode(self.reparameterize(mu, logvar))
        kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
        return recon, F.binary_cross_entropy(recon, torch.sigmoid(x), reduction="sum") + kl, mu, logvar


class InPlace(VAE):
    """As the example was once."""

    def reparameterize(self, mu, logvar):
        std = logvar.mul(0.5).exp_()
        return torch.randn_like(std).mul(std).add_(mu)


class Sampler(nn.Module):
    """A layer without layers, which draws in training only."""

    def forward(self, mu, logvar):
        if not self.training:
            return mu
        return torch.exp(logvar / 2) * torch.randn_like(mu) + mu


class Convolutional(nn.Module):
    """Chains of layers, a layer that samples, KL per image."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4 * 4, 6)
        self.sampler = Sampler()
        self.decoder = nn.Linear(3, 16)

    def forward(self, x):
        h = F.max_pool2d(F.relu(self.conv(x.view(-1, 1, 4, 4))), 2)
        mu, logvar = self.fc(torch.flatten(h, 1)).chunk(2, dim=1)
        z = self.sampler(mu, logvar)
        kl = torch.mean(-0.5 * torch.sum(1 + logvar - mu**2 - logvar.exp(), dim=1), dim=0)
        return self.decoder(z), kl


class Decomposed(nn.Module):
    """Only KL, in place, as its parts."""

    def forward(self, mu, logvar):
        return mu.pow(2).add_(logvar.exp()).mul_(-1).add_(1).add_(logvar).sum().mul(-0.5)
