"""Networks and trainers for the tests, in a file as a user's would be, so that they are found again by name."""

from __future__ import annotations

import torch
from torch import nn


class Net(nn.Module):
    """A small network over `x`, which finds its own width."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.LazyLinear(32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class Wider(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.LazyLinear(48), nn.ReLU(), nn.Dropout(0.1), nn.Linear(48, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class Cnn(nn.Module):
    """A convolutional network over a picture, with batch norm and tied weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.first = nn.Conv2d(8, 8, 3, padding=1)
        self.again = self.first
        self.out = nn.Linear(8 * 16, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.norm(self.conv(image)))
        h = torch.relu(self.again(torch.relu(self.first(h))))
        return self.out(nn.functional.avg_pool2d(h, 2).flatten(1))


class Words(nn.Module):
    """Mean of word vectors, beside a number."""

    def __init__(self) -> None:
        super().__init__()
        self.vectors = nn.Embedding(2**10 + 1, 16, padding_idx=2**10)
        self.out = nn.Linear(17, 3)

    def forward(self, text_ids: torch.Tensor, text_weights: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        mean = (self.vectors(text_ids) * text_weights.unsqueeze(-1)).sum(dim=1)
        return self.out(torch.cat([mean, x], dim=1))


class Price(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x).squeeze(1)


class Explodes(nn.Module):
    """Takes steps far too large."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.exp(self.layer(x) * 50) ** 4


class Branches(nn.Module):
    """Chooses by what it sees, which a graph cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) if float(x.detach().mean()) > 0.25 else self.layer(x) * 2.0


class Short(nn.Module):
    """Has one output too few."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def no_module() -> str:
    return "Net"


class Waves(nn.Module):
    """A network with a function that ONNX has not."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.LazyLinear(16), nn.ReLU(), nn.LazyLinear(10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x) + torch.special.bessel_j0(x[:, :1])


class Pair(nn.Module):
    """A linear model of two classes over `x`."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.LazyLinear(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(x)
