"""Use the models in your own program, without HTTP: two questions at once, answered by one instance.

    python examples/embed_pool.py
"""

import asyncio

from lllms_core import Host, Message


async def ask(host: Host, question: str) -> None:
    """Print the answer to one question as it comes."""
    request = host.request("tiny-chat", messages=[Message("user", question)], parameters={"temperature": 0})
    async with host.submit(request) as stream:
        answer = await stream.gather()
        print(f"{question} -> {answer.text} ({answer.finish.usage.completion_tokens} tokens)")


async def main() -> None:
    """Without a configuration, the host offers the models of the installed plugins."""
    async with Host() as host:
        await asyncio.gather(ask(host, "lets count to 10"), ask(host, "What is 3 plus 4?"))


if __name__ == "__main__":
    asyncio.run(main())
