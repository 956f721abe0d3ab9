"""Which roster a client goes by: the highest number that n-t replicas report, and what follows for itself.

For its epoch p a client uses, of the rosters up to that number, the last that starts by p. A statement that it lacks
it pulls from whoever reports more; the operator's signature is what counts, not who brings it. A joiner starts at its
roster's start epoch; whom no roster lists any more is retired.
"""

from __future__ import annotations

from collections.abc import Callable

from asyncfl.client.context import Context, State
from asyncfl.errors import InvalidItem, RosterConflict
from asyncfl.federation import Roster
from asyncfl.messages import RosterRequest, RosterStatement
from asyncfl.rosters import Answers, put_roster

REQUEST_SECONDS = 2.0
"""How long an unanswered ROSTER_REQUEST rests before it is repeated."""


class Membership:
    """The rosters one client holds, and whether it is in the one that applies."""

    def __init__(self, context: Context, move: Callable[[int], None]) -> None:
        self.context = context
        self.move = move
        self.ask_from: Callable[[int], None] = lambda place: None
        """Asks for a TASK anew."""
        self.rest_if_done: Callable[[], None] = lambda: None
        """Rests, or leaves, where the last epoch or the budget is over."""
        self._asked_as: Roster | None = None
        """The roster under which a TASK is being asked for."""
        self._answers = Answers(context.rosters.statements)
        self._requested_at: dict[int, float] = {}

    def start(self) -> None:
        """What the deployment file brought goes to disk; what contradicts the disk is reported."""
        context = self.context
        for error in context.refused_rosters:
            context.notify("roster_refused", "error", reason=str(error))
        if context.unsaved_rosters:
            context.persist(*map(put_roster, context.unsaved_rosters))

    @property
    def may_ask(self) -> bool:
        """Whether a TASK may be asked for: n-t replicas have said which roster applies, and it lists this client."""
        agreed = self.context.fronts.roster
        return agreed is not None and agreed <= self.context.rosters.highest and self.context.is_member

    def update(self) -> bool:
        """Choose the roster for this client's epoch anew, unless it trains or uploads under one.

        True if it has turned to another roster or epoch, and so has asked anew.
        """
        context = self.context
        agreed = context.fronts.roster
        if agreed is None or context.state in (State.TRAINING, State.UPLOADING, State.LEFT):
            return False
        context.roster = context.rosters.at(context.epoch, agreed)
        if agreed > context.rosters.highest:
            self._wait(f"the operator's statement of roster {context.rosters.highest + 1}")
            return False
        if not context.is_member:
            self._asked_as = None
            return self._stay_out(agreed)
        self._return()
        if context.roster == self._asked_as or context.state is not State.ASKING:
            return False
        self._asked_as = context.roster
        self.ask_from(0)
        return True

    def _wait(self, reason: str) -> None:
        self._asked_as = None
        if self.context.state is State.ASKING:
            self.context.waiting_for = reason

    def _stay_out(self, agreed: int) -> bool:
        """The roster of this epoch does not list this client: wait for one that does, or retire."""
        context = self.context
        me, number = context.identity.public, context.roster.number
        later = next((r for r in context.rosters.held[number + 1 :] if me in r.position), None)
        if later is None:
            if context.state is not State.RETIRED:
                context.state = State.RETIRED
                context.waiting_for = (
                    f"nothing: the operator retired it from epoch {context.roster.start_epoch} on"
                )
                context.notify("retired", epoch=context.epoch, roster=number)
            return False
        self._return()
        if later.start_epoch > context.epoch:
            context.notify("joins", epoch=later.start_epoch, roster=later.number)
            self.move(later.start_epoch)
            return True
        self._wait(
            f"{context.parameters.quorum} replicas to report roster {later.number}, which lists this client; "
            f"they report {agreed}"
        )
        return False

    def _return(self) -> None:
        """A roster lists this client again."""
        if self.context.state is State.RETIRED:
            self.context.state = State.ASKING
            self.rest_if_done()

    # statements

    def heard(self, replica: int) -> None:
        """A replica has said which rosters it holds: pull what is lacking, and go by what is agreed."""
        context = self.context
        due = self._requested_at.get(replica, float("-inf")) + REQUEST_SECONDS
        if context.fronts.latest[replica].roster > context.rosters.highest and context.now >= due:
            self._requested_at[replica] = context.now
            request = RosterRequest(after=context.rosters.highest)
            context.send(context.federation.replica_keys[replica], request)
        self.update()

    def receive_statement(self, replica: int, message: RosterStatement) -> None:
        """From any replica: the operator's signature is what counts. On disk before it is used."""
        context = self.context
        try:
            is_new = context.rosters.add(message)
        except InvalidItem as error:
            level = "error" if isinstance(error, RosterConflict) else "warning"
            context.notify("roster_refused", level, replica=replica, reason=str(error))
            return
        if is_new:
            context.persist(put_roster(message))
            context.notify("roster_held", number=message.number, start_epoch=message.start_epoch)
            self.update()

    def receive_request(self, replica: int, message: RosterRequest) -> None:
        """A replica that does not know the roster an upload names."""
        key = self.context.federation.replica_keys[replica]
        for statement in self._answers.give(key, message.after, self.context.now):
            self.context.send(key, statement)
