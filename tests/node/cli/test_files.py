"""Key files and the deployment's directory: private, checked, and refused with the command to run."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncfl.digest import content_digest
from asyncfl.errors import ConfigurationError
from asyncfl.identity import Identity
from node.deployment_files import (
    DeploymentDirectory,
    read_key,
    read_public_key,
    write_key,
    write_public_key,
)


def test_a_key_is_read_back_and_its_file_is_private(tmp_path: Path) -> None:
    identity = Identity.generate()
    path = tmp_path / "keys" / "replica-0.key"
    write_key(path, identity)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_key(path).public == identity.public
    assert identity.seed.hex() in path.read_text()


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    write_key(path, Identity.generate())
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="never overwritten"):
        write_key(path, Identity.generate())
    assert path.read_bytes() == before


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644, 0o601])
def test_a_key_that_others_can_use_is_refused_with_the_chmod_to_run(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "a.key"
    write_key(path, Identity.generate())
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match=f"mode {mode:04o}.*chmod 600 {path}"):
        read_key(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"asyncfl-private-key-1", b"asyncfl-private-key-1 zz", b"asyncfl-private-key-2 " + b"00" * 32,
     b"asyncfl-private-key-1 " + b"00" * 31, b"\xff\xfe", b"00" * 32],
)  # fmt: skip
def test_a_malformed_key_file_is_refused_without_showing_its_content(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match="not a key file") as caught:
        read_key(path)
    assert "00" * 31 not in str(caught.value)


def test_a_public_key_file_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "a.pub"
    write_public_key(path, "client-7", bytes(range(32)))
    assert read_public_key(path) == ("client-7", bytes(range(32)))
    path.write_text("something else\n")
    with pytest.raises(ConfigurationError, match="not a public key file"):
        read_public_key(path)


def test_a_missing_key_is_refused_with_the_path(copied: DeploymentDirectory) -> None:
    copied.key_file("replica-1").unlink()
    with pytest.raises(ConfigurationError, match=r"keys/replica-1\.key: no such key file"):
        copied.identity("replica-1")


def test_another_partys_key_is_refused_and_named(copied: DeploymentDirectory) -> None:
    copied.key_file("replica-1").write_bytes(copied.key_file("client-2").read_bytes())
    with pytest.raises(ConfigurationError, match="this key is the key of client-2"):
        copied.identity("replica-1")
    copied.key_file("replica-1").unlink()
    write_key(copied.key_file("replica-1"), Identity.generate())
    with pytest.raises(ConfigurationError, match="of no node of this deployment"):
        copied.identity("replica-1")


def test_an_unknown_name_has_no_key(made: DeploymentDirectory) -> None:
    with pytest.raises(ConfigurationError, match="knows no node called 'replica-9'"):
        made.identity("replica-9")


def test_a_directory_without_a_deployment_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"holds no deployment\.toml.*asyncfl init"):
        DeploymentDirectory.load(tmp_path)
    with pytest.raises(ConfigurationError, match=r"holds no deployment\.toml"):
        DeploymentDirectory.load(tmp_path / "absent")


def test_a_deployment_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "deployment.toml").write_bytes(b"name = \xff\xfe")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        DeploymentDirectory.load(tmp_path)


def test_the_initial_model_is_the_one_that_the_deployment_names(copied: DeploymentDirectory) -> None:
    data = copied.initial_model()
    assert content_digest(data) == copied.deployment.model.digest
    assert len(data) == 4 * (copied.deployment.model.weights + copied.deployment.model.buffers)


def test_another_initial_model_is_refused(copied: DeploymentDirectory, tmp_path: Path) -> None:
    from node.deployment_creation import NewDeployment, create_deployment

    other = create_deployment(tmp_path / "other", NewDeployment(clients=6, seed=1))
    copied.model_file.write_bytes(other.model_file.read_bytes())
    with pytest.raises(ConfigurationError, match="not the initial model of this deployment"):
        copied.initial_model()
