"""Chat templates that describe the call format in words but render no past call; abridged for these tests."""
# ruff: noqa: E501  # lines are the templates'

_MESSAGES = r"""{%- for message in messages %}{{- '<|im_start|>' + ('user' if message.role == 'tool' else message.role) + '\n' + message.content + '<|im_end|>\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""

TAGS = r"""{%- if tools %}{{- '<|im_start|>system\nThese functions can be called:\n<tools>' }}
{%- for tool in tools %}{{- '\n' + (tool | tojson) }}{%- endfor %}
{{- '\n</tools>\n\nA call is an object in tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n' }}{%- endif %}
""" + _MESSAGES

SWAPPED = TAGS.replace('"name": <function-name>, "arguments": <args-json-object>', '"arguments": <args-dict>, "name": "<function-name>"')

LIST = r"""{%- if tools %}{{- '<|start_of_role|>system<|end_of_role|>If a tool is needed, answer with <|tool_call|> followed by a JSON list of the calls.<|end_of_text|>\n' }}
{{- '<|start_of_role|>available_tools<|end_of_role|>' + (tools | tojson(indent=4)) + '<|end_of_text|>\n' }}{%- endif %}
{%- for message in messages %}{{- '<|start_of_role|>' + ('tool_response' if message.role == 'tool' else message.role) + '<|end_of_role|>' + message.content + '<|end_of_text|>\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_of_role|>assistant<|end_of_role|>' }}{%- endif %}"""

ACTIONS = r"""{{- bos_token }}{%- if tools %}{{- '<|SYSTEM|>Act in steps.\n1. Action: write <|START_ACTION|> followed by a list of calls as JSON, each with the keys "tool_name" and "parameters". Close it with <|END_ACTION|>.\n' }}
{%- for tool in tools %}{{- '{"name": "' + tool.function.name + '", "parameters": ' + (tool.function.parameters | tojson) + ', "responses": null}\n' }}{%- endfor %}{{- '<|END_OF_TURN|>' }}{%- endif %}
{%- for message in messages %}{{- '<|' + (message.role | upper) + '|>' + message.content + '<|END_OF_TURN|>' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|CHATBOT|>' }}{%- endif %}"""

FENCED = r"""{%- if tools %}{{- '<|im_start|>system\nChoose from these tools:\n' + (tools | tojson) + '\nThe format is\n```\n[\n    {"name": "func_name1", "arguments": {"argument1": "value1", "argument2": "value2"}},\n    ... (more calls)\n]\n```\nWithout a call, write [].<|im_end|>\n' }}{%- endif %}
""" + _MESSAGES

BARE = r"""{%- if tools %}{{- '<|im_start|>system\n' + (tools | tojson) + '\nAnswer as {"name": function name, "parameters": {"key": value}}.<|im_end|>\n' }}{%- endif %}
""" + _MESSAGES

TAGGED_LIST = FENCED.replace("```\\n[", "<calls>[").replace("]\\n```", "]</calls>")

UNTOLD = r"""{%- if tools %}{{- '<|im_start|>system\nYou may call <|tool_call|> as you like: ' + (tools | tojson) + '<|im_end|>\n' }}{%- endif %}
""" + _MESSAGES
