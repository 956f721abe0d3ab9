"""The deployment file: what is written is read back, and what is wrong is refused with file, place and remedy."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncfl.deployment import Deployment, ModelEntry
from asyncfl.deployment_fields import is_name
from asyncfl.deployment_rosters import enrolment_body
from asyncfl.digest import digest
from asyncfl.errors import ConfigurationError, ParameterError
from asyncfl.identity import Identity, verify
from asyncfl.parameters import Parameters

from .builders import EXAMPLE, OPERATOR, key, make, refusal

TEXT = EXAMPLE.render()


def changed(old: str, new: str) -> str:
    assert old in TEXT, f"{old!r} is not in the example"
    return TEXT.replace(old, new, 1)


def test_what_is_rendered_is_parsed_back_to_an_equal_deployment() -> None:
    parsed = Deployment.parse(TEXT)
    assert parsed == EXAMPLE
    assert parsed.digest == EXAMPLE.digest
    assert parsed.federation() == EXAMPLE.federation()
    assert parsed.render() == TEXT


def test_training_changes_survive_a_round_trip_and_can_be_added_to_a_file_without_any() -> None:
    added = TEXT.replace("[roster]", "[[training.changes]]\nepoch = 30\nlocal_steps = 5\n\n[roster]", 1)
    parsed = Deployment.parse(added)
    assert Deployment.parse(parsed.render()) == parsed
    steps = [parsed.federation().schedule.settings_at(epoch).local_steps for epoch in (29, 30)]
    assert steps == [20, 5]
    assert parsed.digest == EXAMPLE.digest
    wrong = added.replace("local_steps = 5", "local_step = 5")
    assert "training.changes[0].local_step: unknown key; did you mean 'local_steps'" in refusal(wrong)
    assert 'decay = "step" takes decay_epochs and decay_factor' in refusal(
        changed('decay = "constant"', 'decay = "step"')
    )


def test_federation_holds_the_public_facts_in_order() -> None:
    federation = EXAMPLE.federation()
    assert federation.digest == EXAMPLE.digest
    assert federation.replica_keys == tuple(key(f"replica-{i}") for i in range(4))
    assert (federation.weights, federation.buffers, federation.dimension) == (10, 3, 13)
    assert federation.initial_model == digest("model")
    assert federation.schedule.settings_at(1).local_steps == 20
    roster = federation.rosters[0]
    assert roster.number == 0
    assert roster.members == tuple(sorted(key(f"client-{i}") for i in range(6)))


def test_operator_signs_every_enrolment_and_the_roster_under_the_digest() -> None:
    client = EXAMPLE.clients[2]
    body = enrolment_body(client.key, 1)
    assert verify(OPERATOR.public, "enrolment", EXAMPLE.digest, body, client.signature)
    roster = EXAMPLE.federation().rosters[0]
    assert verify(OPERATOR.public, "roster", EXAMPLE.digest, roster.digest, EXAMPLE.roster.signature)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"task": {"factory": "other:task"}},
        {"training": {"learning_rate": 0.5}},
        {"clients": {f"hospital-{i}": key(f"hospital-{i}") for i in range(6)}},
    ],
    ids=["name", "task", "training", "clients"],
)
def test_digest_leaves_out_what_safety_does_not_depend_on(change: dict[str, object]) -> None:
    assert make(**change).digest == EXAMPLE.digest


@pytest.mark.parametrize(
    "change",
    [
        {"nonce": bytes(16)},
        {"operator": Identity(digest("another operator"))},
        {"parameters": Parameters.for_clients(6, cell_size=3, clip=2.0)},
        {"parameters": Parameters.for_clients(6, cell_size=3, window=3)},
        {"model": ModelEntry(digest=digest("another"), weights=10, buffers=3)},
        {"model": ModelEntry(digest=digest("model"), weights=11, buffers=2)},
        {"replicas": {f"replica-{i}": (f"ws://h:{7000 + i}", key(f"replica-{3 - i}")) for i in range(4)}},
    ],
    ids=["nonce", "operator", "clip", "window", "model", "split", "replica order"],
)
def test_digest_covers_everything_that_safety_depends_on(change: dict[str, object]) -> None:
    assert make(**change).digest != EXAMPLE.digest


def test_addresses_can_change_without_a_new_deployment() -> None:
    moved = Deployment.parse(changed("ws://127.0.0.1:7001", "wss://replica.example:443"))
    assert moved.digest == EXAMPLE.digest
    assert moved.replica("replica-1").address == ("replica.example", 443)


def test_malformed_toml_is_refused_with_the_line() -> None:
    broken = changed("[training]", "[training")
    line = broken.splitlines().index("[training") + 1
    assert f"line {line}" in refusal(broken)


def test_deeply_nested_toml_is_refused() -> None:
    refusal("a = " + "[" * 100_000)


def test_unknown_key_is_refused_with_line_and_likely_spelling() -> None:
    broken = changed("cell_size = 3", "cell_sise = 3")
    line = broken.splitlines().index("cell_sise = 3") + 1
    message = refusal(broken)
    assert f":{line}: parameters.cell_sise: unknown key" in message
    assert "'cell_size'" in message


def test_unknown_table_is_refused() -> None:
    assert "extras: unknown key" in refusal(TEXT + "\n[extras]\na = 1\n")


def test_missing_key_is_refused_with_its_path() -> None:
    assert "training.learning_rate: this key is missing" in refusal(changed("learning_rate = 0.1\n", ""))


def test_value_of_an_entry_is_refused_with_the_line_of_that_entry() -> None:
    broken = changed("ws://127.0.0.1:7002", "http://127.0.0.1:7002")
    line = next(i for i, text in enumerate(broken.splitlines(), 1) if "http://" in text)
    assert f":{line}: replicas[2].url" in refusal(broken)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("cell_size = 3", 'cell_size = "3"', "parameters.cell_size"),
        ("cell_size = 3", "cell_size = true", "parameters.cell_size"),
        ("clip = 1.0", "clip = -1.0", "parameters.clip"),
        ("clip = 1.0", "clip = nan", "parameters.clip"),
        ("clip = 1.0", "clip = inf", "parameters.clip"),
        ("learning_rate = 0.1", "learning_rate = nan", "training.learning_rate"),
        ("format = 1", "format = 2", "format 2 is not known"),
        ("format = 1", "format = true", "format"),
        ("weights = 10", "weights = 0", "model.weights"),
        ('file = "model.safetensors"', 'file = "../model.safetensors"', "model.file"),
        ('file = "model.safetensors"', 'file = "/etc/passwd"', "model.file"),
        ("ws://127.0.0.1:7000", "ws://127.0.0.1", "replicas[0].url"),
        ("ws://127.0.0.1:7000", "ws://127.0.0.1:99999", "replicas[0].url"),
        ('name = "client-3"', 'name = "../client-3"', "clients[3].name"),
        ('name = "client-3"', 'name = ""', "clients[3].name"),
        ('name = "client-3"', 'name = "CLIENT-2"', "clients[3].name"),
        ('name = "client-3"', 'name = "replica-0"', "clients[3].name"),
        ("batch_size = 16", "batch_size = 0", "training.batch_size"),
        ("alpha = 0.3", "alpha = {a = 1}", "task.options"),
        (EXAMPLE.nonce.hex(), "00", "nonce"),
        ("number = 0", "number = 1", "roster.number"),
    ],
)
def test_bad_value_is_refused_with_its_key(old: str, new: str, expected: str) -> None:
    assert expected in refusal(changed(old, new))


@pytest.mark.parametrize("bad", ["00" * 32, "zz" * 32, "aa" * 31, "", "02" + "00" * 31])
def test_bad_public_key_is_refused(bad: str) -> None:
    assert "clients[3].key" in refusal(changed(EXAMPLE.clients[3].key.hex(), bad))


def test_same_key_for_two_parties_is_refused() -> None:
    for other in (EXAMPLE.clients[3].key, EXAMPLE.replicas[0].key, OPERATOR.public):
        with pytest.raises(ConfigurationError, match="every party needs its own"):
            make(
                clients={
                    **{f"client-{i}": key(f"client-{i}") for i in range(5)},
                    "client-3x": other,
                    "x": other,
                }
            )


def test_same_address_for_two_replicas_is_refused() -> None:
    assert "replicas[1].url" in refusal(changed("127.0.0.1:7001", "127.0.0.1:7000"))


def test_a_client_that_the_operator_did_not_enrol_is_refused() -> None:
    stranger = key("stranger").hex()
    message = refusal(changed(EXAMPLE.clients[3].key.hex(), stranger))
    assert "clients[3].signature" in message
    assert "did not enrol client-3" in message


def test_an_enrolment_from_another_deployment_is_refused() -> None:
    other = make(nonce=bytes(16))
    message = refusal(changed(EXAMPLE.clients[3].signature.hex(), other.clients[3].signature.hex()))
    assert "clients[3].signature" in message


def test_leaving_a_client_out_breaks_the_rosters_signature() -> None:
    head, _, _ = TEXT.rpartition("[[clients]]")
    assert "roster.signature" in refusal(head)


def test_changed_parameters_break_the_signatures() -> None:
    assert "signature" in refusal(changed("window = 2", "window = 3"))


def test_tiny_preset_is_refused_for_a_network() -> None:
    message = refusal(changed('preset = "standard"', 'preset = "tiny"'))
    assert "parameters.preset" in message
    assert '"standard"' in message


def test_too_few_replicas_for_t_are_refused_with_the_bound() -> None:
    with pytest.raises(ParameterError, match=r"deployment\.toml: .*n >= 3t\+1"):
        Deployment.parse(changed("byzantine = 1", "byzantine = 2"))


def test_a_modulus_budget_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ParameterError, match="max_group"):
        Deployment.parse(changed("max_group = 6", "max_group = 64"))


def test_number_of_replicas_must_agree_with_the_parameters() -> None:
    message = refusal(changed("replicas = 4", "replicas = 5"))
    assert "parameters.replicas is 5, but 4" in message


def test_fewer_clients_than_a_cell_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="no cell could be filled"):
        make(parameters=Parameters.for_clients(7, cell_size=7))


def test_unknown_names_are_refused_with_the_likely_one() -> None:
    with pytest.raises(ConfigurationError, match="did you mean replica-2"):
        EXAMPLE.replica("replica-22")
    with pytest.raises(ConfigurationError, match="no client is called"):
        EXAMPLE.client("replica-2")
    assert EXAMPLE.client_index("client-4") == 4


def test_names_are_file_names() -> None:
    assert is_name("replica-1")
    assert not any(map(is_name, ["", ".hidden", "a/b", "a b", "-x", "é", "a" * 65, "a\n"]))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_single_changed_character_slips_through_unnoticed(data: st.DataObject) -> None:
    """A changed character is refused, or changes nothing that is signed."""
    place = data.draw(st.integers(0, len(TEXT) - 1))
    character = data.draw(st.characters(codec="ascii"))
    text = TEXT[:place] + character + TEXT[place + 1 :]
    try:
        parsed = Deployment.parse(text)
    except ConfigurationError:
        return
    assert parsed.digest == EXAMPLE.digest
    assert parsed.federation().rosters == EXAMPLE.federation().rosters
