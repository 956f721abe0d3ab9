"""What a replica has locked is never written over, in whatever order groups come to its notice."""

from asyncfl.effects import Put
from asyncfl.messages import GroupId, LockContent, Member
from asyncfl.replica.locks import LockTable


def content(*clients: int, part: int = 0) -> LockContent:
    members = tuple(Member(client=bytes([c]) * 32, epoch=1, manifest=bytes([c + 100]) * 32) for c in clients)
    return LockContent(id=GroupId(epoch=1, cell=0, coordinator=0, part=part), members=members)


def test_a_group_recorded_twice_does_not_take_the_place_of_the_one_that_was_locked_first() -> None:
    """Simulated seed 3172: locked A; n-t others locked B under the same id, which was revealed and then opened."""
    locked, revealed = content(1, 2, 3), content(1, 2, 4)
    table, disk = LockTable(), {}
    for each in (locked, revealed, revealed):
        row: Put = table.record(each)
        disk[row.key] = row.value
    assert {LockContent.decode(value) for value in disk.values()} == {locked, revealed}
    restarted = LockTable()
    restarted.load(disk)
    for known in (table, restarted):
        assert known.conflict(content(3, 5, part=1)) is not None, "a member of the first lock was forgotten"
        assert locked.id in known.contested
