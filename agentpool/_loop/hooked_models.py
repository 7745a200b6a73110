"""Model calls that have hooks around them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from agentpool._core.effects import Compact, Effect, Reason
from agentpool._core.events import ReasoningDeltaReceived, TextDeltaReceived
from agentpool._core.messages import Completion, CompletionRequest
from agentpool._core.transcript import checked_history
from agentpool._core.usage import NO_USAGE, TokenUsage
from agentpool._kernel.idleness import IdleLimit
from agentpool._kernel.places import set_place
from agentpool._kernel.protection import protect_module
from agentpool._loop.hooks import Layer, Passage, apart
from agentpool._loop.model_calls import ModelCalls

if TYPE_CHECKING:
    from agentpool._loop.tape import Tape


def _may_change_it(calls: HookedModelCalls) -> bool:
    """Whether a hook may change what is said, and does not want it to be seen before."""
    return any(
        (each.around is not None or each.after is not None) and not each.hook.streams for each in calls.layers
    )


@attrs.frozen(eq=False)
class HookedModelCalls(ModelCalls):
    """As `ModelCalls`, through hooks; each call that they let through, or make, is metered by itself.

    Attributes:
      layers: not empty.
      holds_text: whether the text of an answer is told behind the hooks, and not as it arrives.
    """

    layers: tuple[Layer, ...] = attrs.field(default=(), kw_only=True)
    tape: Tape | None = attrs.field(default=None, kw_only=True)
    holds_text: bool = attrs.field(init=False, default=attrs.Factory(_may_change_it, takes_self=True))

    async def passed_over(self, effect: Effect) -> None:
        """Have the children go on that hooks of a call had spawned, which is not made again."""
        if self.tape is not None and isinstance(effect, Reason | Compact):
            place, head = self.tape.place_of_hooks(is_over=True), self.ctx.head
            if head is None:
                self.ctx.adopt_children_of(place)
            else:
                await head.adopt_children_of(place)

    async def _completed(
        self, request: CompletionRequest, idle: IdleLimit | None, *, shows_text: bool = True
    ) -> Completion:
        asking = _Asking(self, idle, shows_text and not self.holds_text)
        passage = Passage(self.ctx, self.layers, CompletionRequest, Completion, asking.ask, _check_request)

        async def through() -> Completion:
            # What hooks do by the agent's verbs is no operation of its own code: they do not run again for
            # a call that a journal tells of, so that its operations would be counted in another way.
            set_place(None if self.tape is None else self.tape.place_of_hooks())
            return await passage.through(request)

        completion = await apart(through, "a model call")
        # What was used was used, whatever a hook says, and what was not was not.
        if completion.usage != asking.used:
            completion = attrs.evolve(completion, usage=asking.used)
        if shows_text and (self.holds_text or not asking.has_asked):
            self._show(completion)
        return completion

    async def _ask(self, request: CompletionRequest, idle: IdleLimit | None, shows_text: bool) -> Completion:
        return await ModelCalls._completed(self, request, idle, shows_text=shows_text)

    def _show(self, completion: Completion) -> None:
        """Tell an answer in one piece, where it would have been told in pieces without hooks."""
        if not self.ctx.observed or not self._streams():
            return
        if completion.reasoning:
            self.ctx.emit(ReasoningDeltaReceived, completion.reasoning)
        if completion.text:
            self.ctx.emit(TextDeltaReceived, completion.text)


@attrs.define(eq=False)
class _Asking:
    """One effect of the loop, for which hooks may ask the model several times, or not at all."""

    _calls: HookedModelCalls
    _idle: IdleLimit | None
    _shows_text: bool
    used: TokenUsage = NO_USAGE
    has_asked: bool = False

    async def ask(self, request: CompletionRequest) -> Completion:
        """Ask the model itself."""
        self.has_asked = True
        completion = await self._calls._ask(request, self._idle, self._shows_text)
        self.used += completion.usage
        return completion


def _check_request(given: CompletionRequest, asked: CompletionRequest) -> None:
    if asked.messages is given.messages:
        return
    try:
        checked_history(asked.messages)
    except (TypeError, ValueError) as error:
        raise ValueError(f"makes a request that cannot be sent: its {error}") from error


protect_module(globals())
