"""One undo as a request of the sidecar's own: a call of the run, by the way of all calls."""

from collections.abc import Mapping

from coatcheck_sidecar.core.model import UNDO_KEY, CallClass, Level
from coatcheck_sidecar.core.policy import Ask
from coatcheck_sidecar.core.record import Birth, CallOutcome, Event, Intent
from coatcheck_sidecar.core.relay import join
from coatcheck_sidecar.core.tool import HttpUndo, Tool
from coatcheck_sidecar.core.undo import call_of, print_of, summary_of
from coatcheck_sidecar.core.undo_records import Undo
from coatcheck_sidecar.engine.bindings import Binding
from coatcheck_sidecar.engine.calls import Calls
from coatcheck_sidecar.engine.keeper import Keeper
from coatcheck_sidecar.engine.probing import secret
from coatcheck_sidecar.engine.wanted import Performs, Wanted
from coatcheck_sidecar.ports import Headers, Outgoing


class Impossible(Exception):  # noqa: N818 - says what is the case
    """This sidecar can't send the request; another one may."""


class Nobody:
    """Where answers go that no agent waits for: the log has them."""

    @property
    def is_gone(self) -> bool:
        """It waits for as long as the tool's patience lasts."""
        return False

    async def start(self, _status: int, _headers: Headers) -> None:
        """Heard by nobody."""

    async def write(self, _data: bytes) -> None:
        """Heard by nobody."""

    async def end(self) -> None:
        """Heard by nobody."""

    def cut(self) -> None:
        """Heard by nobody."""


class UndoRequests:
    """Sends undos by the tools of the configuration."""

    def __init__(self, exchange: Performs, tools: Mapping[str, Tool]) -> None:
        """`tools` are those by which calls were made: their URLs, keys and credentials count."""
        self._exchange = exchange
        self._tools = tools

    async def send(self, undo: Undo, keeper: Keeper, *, calls: Calls) -> None:
        """To the end of its answer. Raises `Impossible`, `Refusal`."""
        tool = self._tools.get(undo.tool)
        if tool is None or tool.undo is None:
            raise Impossible("no tool of this name has an undo here")
        as_undo = tool.undoing(tool.undo)
        wanted = Wanted(
            tool=as_undo,
            ask=ask_of(keeper, undo, tool=as_undo),
            outgoing=await _outgoing(tool, tool.undo, undo=undo),
            is_recorded=True,
            level=Level.REMOTE,
        )
        await self._exchange.perform(Binding(keeper, calls, b""), wanted, reply=Nobody())


def ask_of(keeper: Keeper, undo: Undo, *, tool: Tool) -> Ask:
    """The asking for the call that takes another back."""
    call_class = tool.class_of(tool.effect_of(undo.method, "/"))
    key = tool.upstream_key if call_class is CallClass.KEYED else None
    return Ask(
        run=keeper.run,
        step=keeper.log.state.step + 1,
        tool=undo.tool,
        call_class=call_class,
        fingerprint=print_of(undo),
        key=undo.key,
        is_undo=True,
        settle_s=tool.probe_settle_s,
        key_lifetime_s=key.lifetime_s if key else None,
        summary=summary_of(undo),
    )


async def _outgoing(tool: Tool, how: HttpUndo, *, undo: Undo) -> Outgoing:
    """The request, but for its key; raises `Impossible`."""
    headers = [("Accept", "application/json")]
    if undo.body.data is not None:
        headers.append(("Content-Type", "application/json"))
    if how.credentials:
        try:
            headers.append((how.header, await secret(how.credentials)))
        except (KeyError, OSError) as error:
            raise Impossible(f"its credentials are not there: {error!r}") from error
    rest, _, query = undo.path.partition("?")
    return Outgoing(
        method=undo.method,
        url=join(tool.upstream, rest, query=query).url,
        headers=tuple(headers),
        body=undo.body.data or b"",
        connect_s=tool.connect_s,
        head_s=tool.head_s,
        idle_s=tool.idle_s,
    )


async def give_up(keeper: Keeper, undo: Undo) -> None:
    """There is no request to send: put the undo in doubt, for somebody to do it by hand."""
    state = keeper.log.state
    call = call_of(state, undo)
    events: list[Event] = []
    number = state.seq + 1 if call is None else call.number
    if call is None:
        birth = Birth(
            key=f"{UNDO_KEY}{undo.key}",
            step=state.step + 1,
            tool=undo.tool,
            call_class=CallClass.ONCE,
            fingerprint=print_of(undo),
            summary=summary_of(undo),
            is_relayed=True,
        )
        events.append(Intent(call=number, birth=birth))
    attempt = 0 if call is None else call.attempt
    events.append(CallOutcome(call=number, attempt=attempt, what="in_doubt", reason=undo.why))
    await keeper.write(*events, level=Level.REMOTE)
