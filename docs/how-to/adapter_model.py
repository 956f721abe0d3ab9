"""A frozen base model with trained adapters: only adapters and head travel.

The base is trained first, by whoever publishes it, on the digits 0 to 4: `python adapter_model.py base.pt`.
The clients then learn all ten digits by low-rank adapters of the hidden layers and a new head.
"""

import sys

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from node.training.supervised import SupervisedTask

WIDTH = 128


def base():
    return nn.Sequential(nn.Linear(64, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU())


class Adapted(nn.Module):
    """`linear(x) + x down up`, of which `linear` is frozen; `up` starts at zero, so that nothing changes at first."""

    def __init__(self, linear, rank):
        super().__init__()
        self.linear = linear
        self.down = nn.Parameter(torch.randn(linear.in_features, rank) / linear.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(rank, linear.out_features))

    def forward(self, inputs):
        return self.linear(inputs) + inputs @ self.down @ self.up


class Digits:
    """The second half of scikit-learn's digits, split over the clients; every fifth of it is held out."""

    def __init__(self, clients, seed):
        self.inputs, self.labels = images()
        rest = torch.arange(len(self.labels) // 2, len(self.labels))
        self.held_out, rest = rest[::5], rest[torch.arange(len(rest)) % 5 > 0]
        order = torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed))
        self.parts = rest[order].tensor_split(clients)

    def client(self, index):
        return self.inputs[self.parts[index]], self.labels[self.parts[index]]

    def test(self):
        return self.inputs[self.held_out], self.labels[self.held_out]

    def prepare(self, clients):
        pass


def images():
    pixels, labels = load_digits(return_X_y=True)
    return torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels)


def adapted_digits(clients, seed, *, base_file="base.pt", rank=8):
    weights = torch.load(base_file, weights_only=True)

    def build():
        network = base()
        network.load_state_dict(weights)
        network.requires_grad_(False)  # before the adapters are added: what needs no gradient stays at home
        network[0], network[2] = Adapted(network[0], rank), Adapted(network[2], rank)
        return nn.Sequential(network, nn.Linear(WIDTH, 10))

    return SupervisedTask(build=build, examples=Digits(clients, seed))


def publish(base_file):
    """Train the base on the digits 0 to 4 in the first half of the data."""
    torch.manual_seed(0)
    inputs, labels = images()
    chosen = torch.arange(len(labels) // 2)[labels[: len(labels) // 2] < 5]
    network = nn.Sequential(base(), nn.Linear(WIDTH, 5))
    for _ in range(30):
        for batch in chosen[torch.randperm(len(chosen))].split(16):
            network.zero_grad()
            cross_entropy(network(inputs[batch]), labels[batch]).backward()
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter.sub_(parameter.grad, alpha=0.1)
    torch.save(network[0].state_dict(), base_file)


if __name__ == "__main__":
    publish(sys.argv[1])
