"""The files of a deployment's directory: where they are, how they are written, and how keys are kept.

::

    DIR/deployment.toml          what everybody agrees on (asyncfl.deployment)
    DIR/model.safetensors        the initial model
    DIR/operator.key             signs rosters and enrolments
    DIR/keys/<name>.key          one private key per node; public halves are in deployment.toml
    DIR/state/<name>/            state.sqlite, blobs/, status.json of one node
    DIR/logs/<process>.log
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Final

from asyncfl.deployment import Deployment
from asyncfl.digest import content_digest
from asyncfl.errors import ConfigurationError, StorageError
from asyncfl.identity import Identity
from asyncfl.toml_document import MAX_BYTES
from node.text_files import read_text
from node.whole_files import make_directory, write_whole

DEPLOYMENT_FILE: Final = "deployment.toml"
OPERATOR_KEY_FILE: Final = "operator.key"
KEY_HEADER: Final = "asyncfl-private-key-1"
PUBLIC_KEY_HEADER: Final = "asyncfl-public-key-1"
KEY_MODE: Final = 0o600
MAX_KEY_FILE_BYTES: Final = 1024


@dataclass(frozen=True)
class DeploymentDirectory:
    """A deployment's directory with its checked deployment file."""

    root: Path
    deployment: Deployment

    @classmethod
    def load(cls, root: Path) -> DeploymentDirectory:
        """Read and check `root`/deployment.toml. Raises `ConfigurationError` naming file, cause, remedy."""
        path = root / DEPLOYMENT_FILE
        try:
            text = read_text(path, limit=MAX_BYTES)
        except NotADirectoryError:
            raise ConfigurationError(
                f"{root} is a file; name the directory that holds {DEPLOYMENT_FILE}"
            ) from None
        except FileNotFoundError:
            raise ConfigurationError(
                f"{root} holds no {DEPLOYMENT_FILE}; name a deployment's directory, or make one with "
                f"`asyncfl init {quote(str(root))}`"
            ) from None
        except UnicodeDecodeError as error:
            raise ConfigurationError(
                f"{path}: not UTF-8 text (byte {error.start}); restore the file"
            ) from None
        except OSError as error:
            raise _unreadable(path, error) from None
        return cls(root, Deployment.parse(text, source=str(path)))

    @property
    def quoted(self) -> str:
        """The directory as a shell takes it, for commands that are shown."""
        return quote(str(self.root))

    @property
    def model_file(self) -> Path:
        return self.root / self.deployment.model.file

    def key_file(self, name: str) -> Path:
        return key_file(self.root, name)

    def state(self, name: str) -> Path:
        """The node's own directory of durable state."""
        return self.root / "state" / name

    def status_file(self, name: str) -> Path:
        return self.state(name) / "status.json"

    def log_file(self, process: str) -> Path:
        return self.root / "logs" / f"{process}.log"

    def identity(self, name: str) -> Identity:
        """The private key of replica or client `name`, checked against the deployment file.

        Raises `ConfigurationError` for an unknown name, and for a key file that is missing, readable by
        others, malformed, or another party's.
        """
        names = {known: key for key, known in self.deployment.names.items()}
        if name not in names:
            raise ConfigurationError(
                f"{self.root / DEPLOYMENT_FILE} knows no node called {name!r}; "
                f"`asyncfl status {self.quoted}` lists them"
            )
        path = self.key_file(name)
        identity = read_key(path)
        if identity.public != names[name]:
            owner = self.deployment.names.get(identity.public)
            whose = f"the key of {owner}" if owner else "of no node of this deployment"
            raise ConfigurationError(
                f"{path}: this key is {whose}, not the one that {DEPLOYMENT_FILE} lists for {name}; "
                "restore the right key file"
            )
        return identity

    def clients_here(self) -> tuple[str, ...]:
        """Names of the clients that a supervisor of the whole deployment runs.

        Everybody whose key is kept here, also who joined later or is to retire; and of the first roster all that
        still take part, whose keys are taken to be here.
        """
        deployment = self.deployment
        needed = {client.name for client in deployment.first_clients} & set(deployment.members)
        return tuple(
            client.name
            for client in deployment.clients
            if client.name in needed or self.key_file(client.name).exists()
        )

    def initial_model(self) -> bytes:
        """Canonical bytes of the initial model, checked against the deployment's digest. Imports torch.

        Raises `ConfigurationError` when the file is missing or is another model.
        """
        from node.training.files import read_model

        data = read_model(self.model_file)[1]
        if content_digest(data) != self.deployment.model.digest:
            raise ConfigurationError(
                f"{self.model_file}: not the initial model of this deployment (its digest differs); "
                "restore the file that came with deployment.toml"
            )
        return data


def key_file(root: Path, name: str) -> Path:
    """Where the private key of `name` is kept."""
    return root / "keys" / f"{name}.key"


def write_key(path: Path, identity: Identity) -> None:
    """Write a new key file, mode 0600, durably.

    Raises `ConfigurationError` when the file exists already, `StorageError` when the disk refuses.
    """
    text = f"{KEY_HEADER} {identity.seed.hex()}\n"
    try:
        make_directory(path.parent)
        # A private key is never overwritten, and never there in part: that could be neither used nor made again.
        write_whole(path, text.encode("ascii"), mode=KEY_MODE, replace=False)
    except FileExistsError:
        raise ConfigurationError(
            f"{path} exists, and a private key is never overwritten; choose another name, "
            "or remove it yourself"
        ) from None
    except OSError as error:
        raise StorageError(f"{path}: cannot write the key file: {error.strerror}") from None


def read_key(path: Path) -> Identity:
    """The identity in a key file. Raises `ConfigurationError` naming what is wrong and the command to run."""
    try:
        mode = path.stat().st_mode
        if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigurationError(
                f"{path}: others on this machine can use this private key (mode {mode & 0o777:04o}); "
                f"run: chmod 600 {path}"
            )
        text = read_text(path, limit=MAX_KEY_FILE_BYTES, encoding="ascii")
    except FileNotFoundError:
        raise ConfigurationError(
            f"{path}: no such key file; put the private key that `asyncfl keygen` made for this node there"
        ) from None
    except UnicodeDecodeError:
        raise _malformed_key(path) from None
    except OSError as error:
        raise _unreadable(path, error) from None
    header, _, seed = text.strip().partition(" ")
    try:
        if header != KEY_HEADER:
            raise ValueError
        return Identity(bytes.fromhex(seed))
    except (ValueError, ConfigurationError):
        raise _malformed_key(path) from None


def write_public_key(path: Path, name: str, public: bytes) -> None:
    """Write `name`'s public key, to be sent to the operator. Raises `StorageError`."""
    try:
        write_whole(path, f"{PUBLIC_KEY_HEADER} {public.hex()} {name}\n".encode("ascii"))
    except OSError as error:
        raise StorageError(f"{path}: cannot write the public key: {error.strerror}") from None


def read_public_key(path: Path) -> tuple[str, bytes]:
    """Name and public key in a file of `write_public_key`. Raises `ConfigurationError`."""
    try:
        header, public, name = read_text(path, limit=MAX_KEY_FILE_BYTES, encoding="ascii").split()
        if header != PUBLIC_KEY_HEADER:
            raise ValueError
        return name, bytes.fromhex(public)
    except ValueError:
        raise ConfigurationError(
            f"{path}: not a public key file: one line `{PUBLIC_KEY_HEADER} <64 hex digits> <name>` "
            "is expected"
        ) from None
    except OSError as error:
        raise _unreadable(path, error) from None


def _malformed_key(path: Path) -> ConfigurationError:
    return ConfigurationError(
        f"{path}: not a key file: one line `{KEY_HEADER} <64 hex digits>` is expected; "
        "restore it from your backup"
    )


def _unreadable(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"{path}: cannot be read: {error.strerror}; check the path and its permissions")
