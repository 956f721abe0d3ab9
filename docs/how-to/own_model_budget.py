"""The task of own_model.py with FedProx and budgets: a training that ends early and says so."""

import time

import torch
from own_model import BreastCancer
from torch.nn.functional import cross_entropy

from node.training.task import LocalTraining


class Budgeted(BreastCancer):
    def train(self, module, client_index, settings, epoch):
        (inputs, labels), mine = self.data(module), self.parts[client_index]
        received = [parameter.detach().clone() for parameter in module.parameters()]
        optimizer = torch.optim.SGD(module.parameters(), lr=settings.learning_rate)
        batches = mine[torch.randperm(len(mine))].split(settings.batch_size)
        end, losses = time.monotonic() + settings.seconds, []
        for batch in batches:
            loss = cross_entropy(module(inputs[batch]), labels[batch])
            pairs = zip(module.parameters(), received, strict=True)
            pull = sum(((w - start) ** 2).sum() for w, start in pairs)
            optimizer.zero_grad()
            (loss + settings.proximal / 2 * pull).backward()
            optimizer.step()
            losses.append(loss.item())
            if len(losses) == settings.most_steps or (settings.seconds and time.monotonic() >= end):
                break
        mean = sum(losses) / len(losses)
        return LocalTraining(len(mine), mean, steps=len(losses), planned=len(batches))
