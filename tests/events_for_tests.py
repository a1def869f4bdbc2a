"""Reads the events of a streamed response as a strict client: a small machine that refuses any other order."""

import json
from collections.abc import Iterable
from copy import deepcopy
from typing import Any

from attrs import Factory, define

ENDS = {"completed", "incomplete", "failed"}
TEXTS = {"reasoning_text": "reasoning", "output_text": "message", "function_call_arguments": "function_call"}
CHANGING = {"status", "completed_at", "error", "incomplete_details", "output", "usage"}


def parse(text: str) -> list[dict[str, Any]]:
    """The events of a stream; each is named as its type, and comments are left out."""
    *blocks, end = text.split("\n\n")
    assert end == ""
    events = []
    for block in blocks:
        if block.startswith(":"):
            continue
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    return events


@define
class StrictReader:
    """One response as its events tell it."""

    first: dict[str, Any] = Factory(dict)
    response: dict[str, Any] = Factory(dict)
    """The last value of the response that was told."""
    items: list[dict[str, Any]] = Factory(list)
    number: int = 0
    state: str = "nothing"
    text: str = ""
    logprobs: list[Any] = Factory(list)
    part: bool = False
    ended: bool = False

    def take(self, event: dict[str, Any]) -> None:
        """Take the next event. Raises `AssertionError` if it may not come now, or contradicts those before."""
        assert not self.ended
        assert event.pop("sequence_number") == self.number
        self.number += 1
        kind = event.pop("type").removeprefix("response.")
        if "response" in event:
            self._tell(kind, event.pop("response"))
            assert event == {}
        elif kind.startswith("output_item."):
            self._item(kind.removeprefix("output_item."), **event)
        else:
            assert event.pop("item_id") == self.items[-1]["id"]
            assert event.pop("output_index") == len(self.items) - 1
            if self.items[-1]["type"] != "function_call":
                assert event.pop("content_index") == 0
            self._text(*kind.split("."), **event)

    def _tell(self, kind: str, response: dict[str, Any]) -> None:
        before = {"created": {"nothing"}, "queued": {"created"}, "in_progress": {"created", "queued"}}
        assert self.state in before.get(kind, {"in_progress"})
        common = {name: value for name, value in response.items() if name not in CHANGING}
        self.first = self.first or common
        assert common == self.first
        assert response["output"] == self.items
        if kind in ENDS:
            assert response["status"] == kind
            assert (response["usage"] is None) == (kind == "failed")
            assert kind == "failed" or all(item["status"] != "in_progress" for item in self.items)
            self.ended = True
        else:
            assert response["status"] in {"queued", "in_progress"}
            assert response["output"] == []
        self.state, self.response = kind, response

    def _item(self, what: str, output_index: int, item: dict[str, Any]) -> None:
        assert self.state == "in_progress"
        if what == "added":
            assert output_index == len(self.items)
            assert all(one["status"] != "in_progress" for one in self.items)
            assert item["status"] == "in_progress"
            assert item.get("arguments", "") == ""
            assert item.get("content", []) == []
            self.items.append(item)
            self.text, self.logprobs, self.part = "", [], False
            return
        assert (what, output_index) == ("done", len(self.items) - 1)
        assert not self.part, "a part is open"
        assert self._value() == item.get("arguments", [part.get("text") for part in item.get("content", [])])
        begun = self.items[-1]
        for name in begun.keys() - {"status", "content", "arguments"}:
            assert item[name] == begun[name]
        self.items[-1] = item

    def _value(self) -> object:
        return self.text if self.items[-1]["type"] == "function_call" else [self.text]

    def _text(self, what: str, step: str, **event: Any) -> None:
        kind = self.items[-1]["type"]
        assert self.items[-1]["status"] == "in_progress"
        if what == "content_part":
            assert kind != "function_call"
            assert self.part == (step == "done")
            part = event.pop("part")
            assert part.pop("text") == (self.text if step == "done" else "")
            said = {"annotations": [], "logprobs": self.logprobs} if kind == "message" else {}
            assert part == {"type": "output_text" if kind == "message" else "reasoning_text", **said}
            self.part = step == "added"
        else:
            assert TEXTS[what] == kind
            assert self.part == (kind != "function_call")
            if kind == "message":
                logprobs = event.pop("logprobs")
                self.logprobs += logprobs if step == "delta" else []
                assert step == "delta" or logprobs == self.logprobs
            if step == "delta":
                self.text += event.pop("delta")
            else:
                assert step == "done"
                assert event.pop("arguments" if kind == "function_call" else "text") == self.text
                assert kind != "function_call" or event.pop("name") == self.items[-1]["name"]
        assert event == {}


def read_events(events: Iterable[dict[str, Any]], *, whole: bool = True) -> dict[str, Any]:
    """Return the response that the events of a stream tell; `whole`: to its end."""
    reader = StrictReader()
    for event in events:
        reader.take(deepcopy(event))
    assert reader.ended or not whole
    return reader.response


def comparable(response: dict[str, Any]) -> dict[str, Any]:
    """A response without what two requests never share."""
    for item in response["output"]:
        item.pop("id", None)
        item.pop("call_id", None)
    return {name: value for name, value in response.items() if name not in {"id", "created_at", "completed_at"}}
