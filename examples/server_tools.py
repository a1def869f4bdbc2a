"""Tools that run in your program: the model calls them, the host runs them, and the model continues with the results.

    python examples/server_tools.py
"""

import asyncio

from lllms_core import Host, Message, ServerTool

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


async def get_weather(city: str) -> dict[str, object]:
    """Stand in for a real weather service."""
    return {"weather": "sunny" if city == "Paris" else "rainy", "temperature": 21}


async def main() -> None:
    """Ask, and print all messages."""
    tool = ServerTool("get_weather", "Get the weather in a city.", SCHEMA, handler=get_weather)
    question = Message("user", "What is the weather in Paris?")
    async with Host() as host:
        greedy = {"temperature": 0}
        async with host.converse("tiny-chat", messages=[question], tools=[tool], parameters=greedy) as conversation:
            answer = await conversation.gather()
    for message in conversation.messages[1:]:
        for call in message.tool_calls:
            print(f"{call.name}({call.arguments})")
        if message.role == "tool":
            print(f"-> {message.content}")
    print(answer.text)


if __name__ == "__main__":
    asyncio.run(main())
