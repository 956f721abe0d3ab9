"""An example deployment, and what its file is refused for."""

from __future__ import annotations

import pytest

from asyncfl.deployment import Deployment, ModelEntry
from asyncfl.digest import digest
from asyncfl.errors import ConfigurationError
from asyncfl.identity import Identity
from asyncfl.parameters import Parameters

OPERATOR = Identity(digest("test operator"))


def key(name: str) -> bytes:
    return Identity(digest("test key", name.encode())).public


def make(**changes: object) -> Deployment:
    clients = changes.pop("clients", {f"client-{i}": key(f"client-{i}") for i in range(6)})
    values: dict[str, object] = {
        "name": "example",
        "nonce": bytes(range(16)),
        "operator": OPERATOR,
        "parameters": Parameters.for_clients(len(clients), cell_size=3),
        "model": ModelEntry(digest=digest("model"), weights=10, buffers=3),
        "task": {"factory": "digits", "seed": 7, "options": {"partition": "dirichlet", "alpha": 0.3}},
        "training": {"learning_rate": 0.1, "local_steps": 20, "batch_size": 16},
        "replicas": {f"replica-{i}": (f"ws://127.0.0.1:{7000 + i}", key(f"replica-{i}")) for i in range(4)},
        "clients": clients,
        **changes,
    }
    return Deployment.create(**values)


EXAMPLE = make()


def refusal(text: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        Deployment.parse(text, source="run/deployment.toml")
    message = str(caught.value)
    assert message.startswith("run/deployment.toml"), message
    return message
