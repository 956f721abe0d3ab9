"""The fold row by row from a ledger's items, as audit and `asyncfl export --best` do it: no cache, no certificate."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from asyncfl.effects import Blobs
from asyncfl.federation import Federation
from asyncfl.fold import Folder, FoldState, apply_total
from asyncfl.ledger import Ledger, Link
from asyncfl.statistics import Best, find_best


def replay(head: Link, federation: Federation, blobs: Blobs) -> Iterator[tuple[int, FoldState]]:
    """(epoch, state after it) of every row of the version `head`, ascending."""
    state = FoldState.start(federation)
    folder = Folder(federation, len(federation.rosters[0].members), blobs.read)
    for link in reversed(list(head.back())):
        state = folder.after(state, link)
        yield link.epoch, state


def find_best_model(
    ledger: Ledger, federation: Federation, initial: bytes, blobs: Blobs, width: int
) -> tuple[Best, int, bytes] | None:
    """The best model by the accuracy over `width` rows: where it is, its last epoch (0: initial), its bytes.

    None where noise hides every accuracy, or nothing was measured.
    """
    last = deque(replay(ledger.counted_head, federation, blobs), maxlen=1)
    best = find_best(last[0][1].statistics, width) if last else None
    if best is None:
        return None
    state, epoch = FoldState.start(federation), 0
    for number, (reached, after) in enumerate(replay(ledger.counted_head, federation, blobs)):
        if number == best.rows:
            break
        state, epoch = after, reached
    return best, epoch, apply_total(initial, state.total)
