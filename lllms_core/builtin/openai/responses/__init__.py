"""OpenAI's Responses API: answers that the server keeps, continues, and writes in the background.

A translation: items become messages (`input_items`), the body becomes the parameters of a chat (`response_body`), and
the pieces of its answer become items and events (`output_items`, `progress`).
"""
