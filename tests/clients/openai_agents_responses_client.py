"""The agents of openai-agents, over their default model, which speaks Responses."""

import openai_agents_client as agents_client
from agents import OpenAIResponsesModel
from asking import run

agents_client.MODEL = OpenAIResponsesModel

if __name__ == "__main__":
    run(agents_client.CHECKS)
