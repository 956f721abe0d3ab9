"""The fold row by row from a ledger's items, as audit and `asyncfl export --best` do it: no cache, no certificate."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from asyncfl.effects import Blobs
from asyncfl.federation import Federation
from asyncfl.fold import FoldState, apply_total, fold_row
from asyncfl.ledger import Ledger
from asyncfl.masking import decode_sum
from asyncfl.rows import compute_expected
from asyncfl.statistics import Best, find_best


def replay(ledger: Ledger, federation: Federation, blobs: Blobs) -> Iterator[tuple[int, FoldState]]:
    """(epoch, state after it) of every row of the ledger, ascending."""
    state, members = FoldState.start(federation), list[int]()
    dimension, roster = federation.upload_dimension, len(federation.rosters[0].members)
    for row in ledger.rows():
        items = [ledger.items[name] for name in row.items]
        sums = ((decode_sum(blobs.read(item.opened), dimension), len(item.members)) for item in items)
        expected = compute_expected(members, roster)
        state = fold_row(state, sums, row.epoch, expected, federation)
        members.append(sum(len(item.members) for item in items))
        yield row.epoch, state


def find_best_model(
    ledger: Ledger, federation: Federation, initial: bytes, blobs: Blobs, width: int
) -> tuple[Best, int, bytes] | None:
    """The best model by the accuracy over `width` rows: where it is, its last epoch (0: initial), its bytes.

    None where noise hides every accuracy, or nothing was measured.
    """
    last = deque(replay(ledger, federation, blobs), maxlen=1)
    best = find_best(last[0][1].statistics, width) if last else None
    if best is None:
        return None
    state, epoch = FoldState.start(federation), 0
    for number, (reached, after) in enumerate(replay(ledger, federation, blobs)):
        if number == best.rows:
            break
        state, epoch = after, reached
    return best, epoch, apply_total(initial, state.total)
