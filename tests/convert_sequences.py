"""Models with recurrent layers, control flow and shared modules, each with arguments for a call."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence


class CRNN(nn.Module):
    """Reads lines of text: convolutions, then a bidirectional LSTM along the columns."""

    def __init__(self):
        super().__init__()
        self.convolutions = nn.Sequential(
            *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d((2, 1))),
        )
        self.recurrent = nn.LSTM(16 * 4, 12, bidirectional=True)
        self.head = nn.Linear(24, 11)

    def forward(self, images):
        columns = self.convolutions(images).flatten(1, 2).permute(2, 0, 1)
        return F.log_softmax(self.head(self.recurrent(columns)[0]), -1)

    @staticmethod
    def arguments(length=20):
        return (torch.randn(2, 1, 16, 2 * length),)


class EncoderDecoder(nn.Module):
    """Translates: a GRU over packed sequences, whose state another one begins with."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 10)
        self.encoder = nn.GRU(10, 12, num_layers=2, batch_first=True)
        self.decoder = nn.GRU(10, 12, num_layers=2, batch_first=True)
        self.head = nn.Linear(12, 20)

    def forward(self, source, target):
        encoded, state = self.encoder(source._replace(data=self.embedding(source.data)))
        decoded, _ = self.decoder(self.embedding(target), state)
        return self.head(decoded), encoded.data

    @staticmethod
    def arguments(length=9):
        tokens, lengths = torch.randint(20, (3, length)), torch.tensor([length - 2, length, 3])
        packed = pack_padded_sequence(tokens, lengths, batch_first=True, enforce_sorted=False)
        return packed, torch.randint(20, (3, length - 1))


class FrameLSTM(nn.Module):
    """Convolves each frame of a film and remembers by an LSTMCell, in a loop."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3, stride=2)
        self.cell = nn.LSTMCell(8 * 3 * 3, 12)
        self.head = nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 5))

    def forward(self, films):
        state = None
        for frame in films.unbind(1):
            features = F.max_pool2d(F.relu(self.convolution(frame)), 2).flatten(1)
            state = self.cell(features, state)
        return self.head(state[0])

    @staticmethod
    def arguments(length=4):
        return (torch.randn(2, length, 3, 15, 15),)


class Decides(nn.Module):
    """Control flow by the data, and a loop whose length is an argument."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
        self.again = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU())
        self.cell = nn.GRUCell(6, 6)

    def forward(self, images, count=2):
        features = self.first(images)
        if images.mean() > 0:
            features = features * 2
        for _ in range(count):
            features = self.again(features) + features
        pooled = features.mean((2, 3))
        return self.cell(pooled, pooled)

    @staticmethod
    def arguments(length=2):
        return torch.randn(2, 3, 8, 8) + length - 2, length


class Shared(nn.Module):
    """One block in two places and one weight in two layers."""

    def __init__(self):
        super().__init__()
        block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
        self.left, self.right = nn.Sequential(block, nn.MaxPool2d(2)), nn.Sequential(block, nn.AvgPool2d(2))
        self.encode, self.decode = nn.Linear(16, 16), nn.Linear(16, 16)
        self.decode.weight = self.encode.weight

    def forward(self, images):
        both = self.left(images) + self.right(images)
        return self.decode(torch.relu(self.encode(both.flatten(2))))

    @staticmethod
    def arguments(length=2):
        return (torch.randn(length, 4, 8, 8),)


MODELS = (CRNN, EncoderDecoder, FrameLSTM, Decides, Shared)
