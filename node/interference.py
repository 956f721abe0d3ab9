"""What an installed extra may put between a node and the world: misbehaviour on purpose, in drills.

Nothing in this distribution implements it (misbehaviour/README.md has the one that does); an ordinary process runs
without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from asyncfl.errors import ConfigurationError

if TYPE_CHECKING:
    from asyncfl.deployment import Deployment
    from asyncfl.effects import Machine
    from asyncfl.identity import Identity
    from node.deployment_files import DeploymentDirectory
    from node.runtime import Network


class Interference(Protocol):
    """Stands between the nodes of one process and what is around them."""

    @property
    def label(self) -> str:
        """What is done, for every log line and every status."""
        ...

    def machine(self, files: DeploymentDirectory, identity: Identity, machine: Machine) -> Machine:
        """The machine that runs in place of the node's own. Raises `ConfigurationError`."""
        ...

    def network(
        self, files: DeploymentDirectory, identity: Identity, listen: tuple[str, int] | None
    ) -> Network | None:
        """The network that the node gets in place of an endpoint; None: an endpoint."""
        ...


def require_consent(interference: Interference | None, deployment: Deployment, source: object) -> None:
    """Raises `ConfigurationError` where nodes are to misbehave in a deployment that was not made for it."""
    if interference is not None and not deployment.allow_misbehaviour:
        raise ConfigurationError(
            f"{source}: this deployment does not allow misbehaviour, so nobody misbehaves in it; make one for the "
            "drill with `asyncfl init --allow-misbehaviour`, or leave --misbehave out"
        )
