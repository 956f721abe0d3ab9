"""Ten clients learn digits in Flower; three of them teach every digit l as 9 - l.

python flower_app.py fedavg | median | fedaot
"""

import sys

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from asyncfl.integrations.flower import FedAOT, Holdout, Robust

CLIENTS, MALICIOUS, ROUNDS = 10, 3, 10
TEST, CLEAN = 297, 100  # The last images: to test on, and the server's own clean ones, which no client has.


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def examples():
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return torch.tensor(images, dtype=torch.float32)[order] / 16, torch.tensor(labels)[order]


client_app = ClientApp()


@client_app.train()
def train(message: Message, context: Context) -> Message:
    number = int(context.node_config["partition-id"])
    images, labels = examples()
    mine = slice(number, -(TEST + CLEAN), CLIENTS)
    inputs, targets = images[mine], labels[mine]
    if number < MALICIOUS:
        targets = 9 - targets
    net = Net()
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    for chosen in torch.randperm(len(targets)).split(8):
        optimiser.zero_grad()
        loss = cross_entropy(net(inputs[chosen]), targets[chosen])
        loss.backward()
        optimiser.step()
    metrics = MetricRecord({"num-examples": len(targets), "loss": loss.item()})
    content = RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=message)


def accuracy(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    images, labels = examples()
    net = Net()
    net.load_state_dict(arrays.to_torch_state_dict())
    right = net(images[-TEST:]).argmax(1) == labels[-TEST:]
    return MetricRecord({"accuracy": right.float().mean().item()})


def make_strategy(name: str) -> FedAvg:
    everybody = {"fraction_evaluate": 0.0, "min_train_nodes": CLIENTS, "min_available_nodes": CLIENTS}
    if name == "fedaot":
        images, labels = examples()
        clean = slice(-(TEST + CLEAN), -TEST)
        return FedAOT(byzantine=MALICIOUS, holdout=Holdout(Net(), images[clean], labels[clean]), **everybody)
    if name == "fedavg":
        return FedAvg(**everybody)
    return Robust(name, byzantine=MALICIOUS, strategy=everybody)


reached = {}


def make_server(name: str) -> ServerApp:
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        torch.manual_seed(0)
        initial = ArrayRecord(Net().state_dict())
        strategy = make_strategy(name)
        result = strategy.start(grid, initial, num_rounds=ROUNDS, evaluate_fn=accuracy)
        reached[name] = result.evaluate_metrics_serverapp[ROUNDS]["accuracy"]
        print(f"{name}: accuracy {reached[name]:.3f} after {ROUNDS} rounds")

    return app


if __name__ == "__main__":
    run_simulation(make_server(sys.argv[1]), client_app, num_supernodes=CLIENTS)
