"""A task of one's own: a small network on scikit-learn's breast-cancer data, split over the clients."""

import torch
from sklearn.datasets import load_breast_cancer
from torch import nn
from torch.nn.functional import cross_entropy


class BreastCancer:
    def __init__(self, clients, seed):
        inputs, labels = load_breast_cancer(return_X_y=True)
        inputs = (inputs - inputs.mean(0)) / inputs.std(0)
        self.inputs, self.labels = torch.tensor(inputs, dtype=torch.float32), torch.tensor(labels)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        self.held_out, self.parts = order[:114], order[114:].tensor_split(clients)

    def model(self):
        return nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 2))

    def data(self, module):
        device = next(module.parameters()).device  # the module is on CUDA where torch sees one
        return self.inputs.to(device), self.labels.to(device)

    def train(self, module, client_index, settings, epoch):
        (inputs, labels), mine = self.data(module), self.parts[client_index]
        optimizer = torch.optim.SGD(module.parameters(), lr=settings.learning_rate)
        losses = []
        for batch in mine[torch.randperm(len(mine))].split(settings.batch_size):
            loss = cross_entropy(module(inputs[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return len(mine), sum(losses) / len(losses)

    def evaluate(self, module):
        inputs, labels = self.data(module)
        return (module(inputs[self.held_out]).argmax(1) == labels[self.held_out]).float().mean().item()
