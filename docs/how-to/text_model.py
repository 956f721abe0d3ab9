"""A task on text: short reviews in which "not" turns the meaning, read word by word by a GRU."""

import random

import torch
from torch import nn

from node.training.supervised import SupervisedTask

THINGS = ["film", "plot", "acting", "music", "ending", "camera", "dialogue", "pace", "cast", "scenery"]
GOOD = ["good", "great", "superb", "moving", "clever", "funny", "fresh", "gripping"]
BAD = ["bad", "dull", "awful", "boring", "stale", "clumsy", "slow", "tedious"]
FILLING = ["the", "a", "and", "was", "is", "but", "really", "quite", "very", "i", "found", "it", "overall"]
WORDS = {word: number for number, word in enumerate(["<pad>", "not", *THINGS, *GOOD, *BAD, *FILLING])}
LENGTH = 12


def review(generator):
    """(words, label): 1 when praise is meant, as in "not dull"."""
    praised, negated = generator.random() < 0.5, generator.random() < 0.3
    judgement = generator.choice(GOOD if praised != negated else BAD)
    words = generator.choice(["the {} was", "i found the {}", "overall the {} is"]).split()
    words += [generator.choice(FILLING) for _ in range(generator.randrange(3))]
    words += ["not"] * negated + [generator.choice(["really", "quite", "very"])] * generator.randrange(2)
    return " ".join([*words, judgement]).format(generator.choice(THINGS)), int(praised)


def encode(text):
    """Numbers of the words, padded at the front, so that the last word is read last."""
    numbers = [WORDS[word] for word in text.split()][-LENGTH:]
    return [0] * (LENGTH - len(numbers)) + numbers


class Reviews:
    """Every client's reviews are drawn from its own number, so that no other party needs them."""

    def __init__(self, clients, seed, each):
        self.clients, self.seed, self.each = clients, seed, each

    def draw(self, whose, count):
        generator = random.Random(f"{self.seed} {whose}")
        texts, labels = zip(*(review(generator) for _ in range(count)), strict=True)
        return torch.tensor([encode(text) for text in texts]), torch.tensor(labels)

    def client(self, index):
        return self.draw(f"client {index}", self.each)

    def test(self):
        return self.draw("held out", 400)

    def prepare(self, clients):
        pass


class Reader(nn.Module):
    """Embedding, GRU, LayerNorm, a head in float64; and an integer buffer, which does not travel."""

    def __init__(self, width=32):
        super().__init__()
        self.embedding = nn.Embedding(len(WORDS), width, padding_idx=0)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 2, dtype=torch.float64)
        self.register_buffer("vocabulary", torch.tensor(len(WORDS)))

    def forward(self, numbers):
        _, last = self.gru(self.embedding(numbers))
        return self.head(self.norm(last[0]).double())


def reviews(clients, seed, *, each=200):
    return SupervisedTask(build=Reader, examples=Reviews(clients, seed, each))
