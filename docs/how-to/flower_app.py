"""Clients learn digits in Flower; three in ten of them teach every digit l as 9 - l.

Ten clients in this process's simulation:           python flower_app.py fedavg | median | fedaot [SEED]
Those that are connected to the SuperLink `local`:  flwr run . local --run-config "strategy='fedaot' clients=4"
"""

import sys

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from asyncfl.integrations.flower import FedAOT, Holdout, Robust

CLIENTS, ROUNDS, MALICIOUS = 10, 10, 0.3
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
    number, clients = (int(context.node_config[key]) for key in ("partition-id", "num-partitions"))
    images, labels = examples()
    mine = slice(number, -(TEST + CLEAN), clients)
    inputs, targets = images[mine], labels[mine]
    if number < int(MALICIOUS * clients):
        targets = 9 - targets
    seed, server_round = (int(message.content["config"][key]) for key in ("seed", "server-round"))
    shuffle = torch.Generator().manual_seed((seed * 1000 + server_round) * 1000 + number)
    net = Net()
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    for chosen in torch.randperm(len(targets), generator=shuffle).split(8):
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


def make_strategy(name: str, clients: int) -> FedAvg:
    byzantine = int(MALICIOUS * clients)
    everybody = {"fraction_evaluate": 0.0, "min_train_nodes": clients, "min_available_nodes": clients}
    if name == "fedaot":
        images, labels = examples()
        clean = slice(-(TEST + CLEAN), -TEST)
        return FedAOT(byzantine=byzantine, holdout=Holdout(Net(), images[clean], labels[clean]), **everybody)
    if name == "fedavg":
        return FedAvg(**everybody)
    return Robust(name, byzantine=byzantine, strategy=everybody)


reached = {}


def make_server(**chosen) -> ServerApp:
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        config = {"clients": CLIENTS, "rounds": ROUNDS, "seed": 0, **chosen, **context.run_config}
        name, rounds, seed = config["strategy"], int(config["rounds"]), int(config["seed"])
        torch.manual_seed(seed)
        initial = ArrayRecord(Net().state_dict())
        strategy = make_strategy(name, int(config["clients"]))
        result = strategy.start(
            grid, initial, rounds, train_config=ConfigRecord({"seed": seed}), evaluate_fn=accuracy
        )
        reached[name] = result.evaluate_metrics_serverapp[rounds]["accuracy"]
        print(f"{name}: accuracy {reached[name]:.3f} after {rounds} rounds")
        if isinstance(strategy, FedAOT):
            print("weights:", {node: round(weight, 3) for node, weight in strategy.weights.items()})

    return app


server_app = make_server()  # For `flwr run`, which says what is chosen.

if __name__ == "__main__":
    # Slow to load, and a client of a deployment is a new process for every message.
    from flwr.simulation import run_simulation

    name, *seed = sys.argv[1:]
    run_simulation(make_server(strategy=name, seed=int(*seed)), client_app, num_supernodes=CLIENTS)
