"""`/props` and `/slots`: the properties of a model, and what its instances do; never a client's text."""

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version

from quart import Response, request

from lllms_compat.answer_values import Frame, settings
from lllms_compat.faults import NOT_SUPPORTED
from lllms_compat.model_choice import find_model
from lllms_core.apis import Abilities, Api, Fault, ModelCard, Server
from lllms_core.apis.fault import INVALID, SERVER
from lllms_core.apis.replies import reply, reply_fault
from lllms_core.gguf import MARKS, TEMPLATE
from lllms_core.status import InstanceStatus
from lllms_core.types import TextRequest


class ServerState:
    """The handlers of `/props` and `/slots`; they load no model."""

    def __init__(self, server: Server, api: Api) -> None:
        self._server = server
        self._api = api

    async def props(self) -> Response:
        """Return the properties of the model that a request without a name would get, or of `?model=`."""
        card = find_model(self._server, request.args.get("model", ""))
        abilities = await self._server.abilities(card.name)
        header = await self._server.metadata(card.name)
        ready = [one for one in self._server.status().instances if one.model == card.name and one.state == "ready"]
        return reply(props_value(card, abilities, header, ready))

    async def change_props(self) -> Response:
        """Refuse: clients change nothing."""
        text = "properties are not changed by requests here; they are set in the server's configuration"
        return reply_fault(Fault(501, text, INVALID, None, NOT_SUPPORTED, {}), self._api)

    async def slots(self) -> Response:
        """Return the slots of all loaded models, or of `?model=`; with `?fail_on_no_slot=1`, 503 if all are busy."""
        name = request.args.get("model", "")
        wanted = self._server.model(name).name if name else None
        slots = [*slot_values([one for one in self._server.status().instances if wanted in {None, one.model}])]
        fails = request.args.get("fail_on_no_slot", "0") not in {"", "0", "false"}
        if fails and all(one["is_processing"] for one in slots):
            text = "no slot is free now; try again, or send the request, which waits for one"
            fault = Fault(503, text, SERVER, None, "no_slot", {})
            return reply_fault(fault, self._api)
        return reply(slots)


def props_value(
    card: ModelCard, abilities: Abilities, header: Mapping[str, object], ready: Sequence[InstanceStatus],
) -> dict[str, object]:
    """Return the properties of a model with these instances; it has no slots before it is loaded."""
    defaults = card.defaults
    bos, eos = (str(header.get(mark, "")) for mark in MARKS)
    asked = TextRequest(
        "", card.name, "", sampling=defaults.sampling, max_tokens=defaults.max_tokens, stop=defaults.stop,
    )
    params = settings(asked, Frame(card.name, abilities.context_length, ""))
    return {
        "default_generation_settings": {"n_ctx": abilities.context_length, "params": params},
        "total_slots": sum(one.info.slots for one in ready if one.info is not None),
        "model_alias": card.name,
        "model_path": card.file_name,
        "modalities": {"vision": abilities.sees_images, "audio": "audio" in card.media},
        "chat_template": str(header.get(TEMPLATE, "")),
        "bos_token": bos,
        "eos_token": eos,
        "build_info": f"lllms {version('lllms-core')}",
        "is_sleeping": not ready,
    }


def slot_values(instances: Sequence[InstanceStatus]) -> Iterator[dict[str, object]]:
    """Yield the slots of the instances that are ready, numbered through; of each, the first ones are busy."""
    count = 0
    for one in instances:
        if one.info is None or one.state != "ready":
            continue
        for place in range(one.info.slots):
            busy = place < one.running
            yield {
                "id": count, "model": one.model, "n_ctx": one.info.context_length, "speculative": False,
                "is_processing": busy, "next_token": [{"has_next_token": busy}],
            }
            count += 1
