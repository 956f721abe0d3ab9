"""Clients in NumPy terms: softmax regression without torch, on scikit-learn's wine data."""

import numpy as np
from sklearn.datasets import load_wine

from node.training.numpy_client import NumPyTask


class WineClient:
    def __init__(self, inputs, labels):
        cut = len(labels) * 4 // 5  # the last fifth is held out
        self.train, self.test = (inputs[:cut], labels[:cut]), (inputs[cut:], labels[cut:])

    def get_parameters(self, config):
        return [np.zeros((13, 3), np.float32), np.zeros(3, np.float32)]

    def fit(self, parameters, config):
        weights, bias = parameters
        inputs, labels = self.train
        order = np.random.default_rng(config["seed"]).permutation(len(labels))
        for batch in np.array_split(order, -(-len(labels) // config["batch_size"])):
            errors = softmax(inputs[batch] @ weights + bias) - np.eye(3)[labels[batch]]
            weights -= config["learning_rate"] * inputs[batch].T @ errors / len(batch)
            bias -= config["learning_rate"] * errors.mean(0)
        loss, _, _ = self.evaluate([weights, bias], config)
        return [weights, bias], len(labels), {"loss": loss}

    def evaluate(self, parameters, config):
        inputs, labels = self.test
        chances = softmax(inputs @ parameters[0] + parameters[1])
        right = chances[np.arange(len(labels)), labels]
        return -np.log(right).mean(), len(labels), {"accuracy": (chances.argmax(1) == labels).mean()}


def softmax(logits):
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def wine(clients, seed):
    inputs, labels = load_wine(return_X_y=True)
    inputs = (inputs - inputs.mean(0)) / inputs.std(0)
    parts = np.array_split(np.random.default_rng(seed).permutation(len(labels)), clients)
    return NumPyTask(lambda index: WineClient(inputs[parts[index]], labels[parts[index]]), clients)
