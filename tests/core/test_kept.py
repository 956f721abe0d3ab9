"""What is kept as bytes reads like the mapping it stands for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncfl.kept import Kept
from asyncfl.messages import GroupId, LockContent, Member, Vote
from asyncfl.replica.item_record import Signatures

IDS = st.builds(
    GroupId, epoch=st.integers(1, 3), cell=st.integers(0, 2), coordinator=st.integers(0, 1), part=st.just(0)
)
MEMBERS = st.builds(
    Member, client=st.binary(min_size=32, max_size=32), epoch=st.integers(1, 9), manifest=st.just(bytes(32))
)


@given(st.lists(st.tuples(IDS, st.lists(MEMBERS, min_size=1, max_size=3), st.booleans())))
def test_it_reads_like_a_dictionary(steps: list[tuple[GroupId, list[Member], bool]]) -> None:
    kept, plain = Kept[GroupId, LockContent](GroupId, LockContent), dict[GroupId, LockContent]()
    for key, members, goes in steps:
        if goes:
            assert kept.pop(key, None) == plain.pop(key, None)
        else:
            kept[key] = plain[key] = LockContent(id=key, members=tuple(members))
        assert list(kept.items()) == list(plain.items())
        assert (key in kept, len(kept), kept.get(key)) == (key in plain, len(plain), plain.get(key))
    assert all(kept.encoded(key) == value.encode() for key, value in plain.items())


def test_what_is_not_there_is_a_key_error_and_no_key_of_another_kind() -> None:
    kept = Kept[bytes, GroupId](bytes, GroupId)
    with pytest.raises(KeyError):
        kept[b"name"]
    assert None not in kept
    assert 3 not in kept


@given(st.lists(st.tuples(st.integers(0, 15), st.binary(min_size=64, max_size=64), st.booleans())))
def test_signatures_read_like_a_dictionary_in_the_order_of_replicas(
    steps: list[tuple[int, bytes, bool]],
) -> None:
    held, plain = Signatures(), dict[int, bytes]()
    for replica, signature, goes in steps:
        if goes and replica in plain:
            del held[replica], plain[replica]
        elif not goes:
            held[replica] = plain[replica] = signature
        assert list(held.items()) == sorted(plain.items())
        assert [held.get(j) for j in range(16)] == [plain.get(j) for j in range(16)]
    assert held == Signatures(held.votes())
    assert held.votes() == tuple(Vote(replica=j, signature=plain[j]) for j in sorted(plain))
