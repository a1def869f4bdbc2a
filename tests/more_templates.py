"""More chat templates in the shapes of real ones: ids and numbers in calls, special ends, headings, switches."""
# ruff: noqa: E501  # lines are the templates'

CALL_IDS = r"""{{- bos_token }}
{%- for message in messages %}
{%- if message.role == 'user' %}
{%- if tools and loop.last %}{{- '[AVAILABLE_TOOLS]' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}{%- endif %}
{{- '[INST]' + message.content + '[/INST]' }}
{%- elif message.tool_calls %}
{%- for call in message.tool_calls %}
{%- if call.id | length != 9 %}{{- raise_exception('ids have nine characters') }}{%- endif %}
{{- '[TOOL_CALLS]' + call.function.name + '[CALL_ID]' + call.id + '[ARGS]' + call.function.arguments | tojson }}
{%- endfor %}{{- eos_token }}
{%- elif message.role == 'tool' %}{{- '[TOOL_RESULTS]' + message.tool_call_id + '[TOOL_CONTENT]' + message.content + '[/TOOL_RESULTS]' }}
{%- else %}{{- message.content + eos_token }}{%- endif %}
{%- endfor %}"""

NUMBERED = r"""{%- set waiting = namespace(ids=[], count=0) -%}
{%- if tools -%}<|im_system|>tools<|im_middle|>{{ tools | tojson }}<|im_end|>{%- endif -%}
{%- for message in messages -%}
<|im_{{ message.role }}|>{{ message.role }}<|im_middle|>
{%- if message.role == 'assistant' and message.tool_calls -%}
{{ message.content }}<|calls_begin|>
{%- for call in message.tool_calls -%}
{%- set id = 'functions.' + call.function.name + ':' + (waiting.count | string) -%}
{%- set waiting.count = waiting.count + 1 -%}
{%- set _ = waiting.ids.append(id) -%}
<|call_begin|>{{ id }}<|argument_begin|>{{ call.function.arguments | tojson }}<|call_end|>
{%- endfor -%}
<|calls_end|>
{%- elif message.role == 'tool' -%}
## Return of {{ waiting.ids.pop(0) }}
{{ message.content }}
{%- else -%}{{ message.content }}{%- endif -%}
<|im_end|>
{%- endfor -%}
{%- if add_generation_prompt -%}<|im_assistant|>assistant<|im_middle|>{%- endif -%}"""

NAMED_IDS = (
    NUMBERED.replace("{%- set id = 'functions.' + call.function.name + ':' + (waiting.count | string) -%}", "")
    .replace("{{ id }}", "{{ call.id }}").replace("append(id)", "append(call.id)")
)

ACTIONS = r"""{{- bos_token }}{%- if tools %}<|SYSTEM|># Tools
{{ tools | tojson }}<|END_OF_TURN|>{%- endif %}
{%- for message in messages %}
{%- if message.role == 'assistant' %}<|CHATBOT|>
{%- if message.reasoning_content %}<|START_THINKING|>{{ message.reasoning_content }}<|END_THINKING|>{%- endif %}
{%- if message.tool_calls %}<|START_ACTION|>[
{%- for call in message.tool_calls %}
    {"tool_call_id": "{{ loop.index0 }}", "tool_name": "{{ call.function.name }}", "parameters": {{ call.function.arguments | tojson }}}{% if not loop.last %},{% endif %}
{%- endfor %}
]<|END_ACTION|>{%- else %}<|START_TEXT|>{{ message.content }}<|END_TEXT|>{%- endif %}<|END_OF_TURN|>
{%- else %}<|{{ message.role | upper }}|>{{ message.content }}<|END_OF_TURN|>{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|CHATBOT|>{%- if enable_thinking is defined and not enable_thinking %}<|START_THINKING|><|END_THINKING|>{%- endif %}{%- endif %}"""

OWN_END = r"""{%- if tools %}{{- '<|begin|>system<|content|>' + (tools | tojson) + '<|end|>' }}{%- endif %}
{%- for message in messages %}
{%- if message.role == 'assistant' %}
{%- if message.reasoning %}{{- '<|begin|>assistant<|think|>' + message.reasoning + '<|end|>' }}{%- endif %}
{%- if message.tool_calls %}{{- '<|begin|>assistant<|tool_calls|>' }}
{%- for call in message.tool_calls %}
{{- '<|call:begin|>' + call.id + '<|call:name|>' + call.function.name + '<|call:args|>' + (call.function.arguments | tojson) + '<|call:end|>' }}
{%- endfor %}{{- '<|calls|>' }}
{%- else %}{{- '<|begin|>assistant<|content|>' + message.content + '<|end|>' }}{%- endif %}
{%- else %}{{- '<|begin|>' + message.role + '<|content|>' + message.content + '<|end|>' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{%- if reasoning_effort in ['minimal', 'low'] %}{{- '<|begin|>assistant<|think|><|end|>' }}{%- endif %}
{{- '<|begin|>assistant' }}{%- endif %}"""

LINES = r"""{%- for message in messages %}
{%- if loop.first and tools %}{{- '<begin>system\n' + (tools | tojson) + '<end>\n' }}{%- endif %}
{{- '<begin>' + message.role + '\n' + message.content }}
{%- if message.tool_calls %}{{- '<tool_calls>\n' }}
{%- for call in message.tool_calls %}
{{- '{"name": "' + call.function.name + '", "arguments": ' + (call.function.arguments | tojson) + '}\n' }}
{%- endfor %}{{- '</tool_calls>' }}{%- endif %}
{{- '<end>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<begin>assistant\n' }}{%- endif %}"""

TOOLS_DEFINED = r"""{%- if tools is defined %}{{- '<|system|>' }}
{%- for tool in tools %}{{- '<|tool|>' + (tool.function | tojson) + '<|/tool|>' }}{%- endfor %}{{- '<|end|>' }}{%- endif %}
{%- for message in messages %}
{{- '<|' + message.role + '|>' + message.content }}
{%- for call in message.tool_calls %}{{- '<|tool_call|>' + (call.function | tojson) + '<|/tool_call|>' }}{%- endfor %}
{{- '<|end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- else %}{{- eos_token }}{%- endif %}"""

BUDGET = r"""{%- if not thinking_budget is defined %}{%- set thinking_budget = -1 %}{%- endif %}
{%- if tools %}{{- '<s:bos>system\n' + (tools | tojson) + '<s:eos>' }}{%- endif %}
{%- if thinking_budget == 0 %}{{- '<s:bos>system\nDo not think.<s:eos>' }}
{%- elif thinking_budget != -1 %}{{- '<s:bos>system\nThink in ' ~ thinking_budget ~ ' tokens.<s:eos>' }}{%- endif %}
{%- for message in messages %}
{{- '<s:bos>' + message.role + '\n' }}
{%- if message.reasoning_content %}{{- '<s:think>' + message.reasoning_content + '</s:think>' }}{%- endif %}
{{- message.content }}
{%- for call in message.tool_calls %}
{{- '\n<s:tool_call>\n<function=' + call.function.name + '>\n' }}
{%- for key, value in call.function.arguments | items %}
{{- '<parameter=' + key + '>' + (value if value is string else value | string) + '</parameter>\n' }}
{%- endfor %}{{- '</function>\n</s:tool_call>' }}
{%- endfor %}{{- '<s:eos>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<s:bos>assistant\n' }}{%- endif %}"""

LISTED_AS_PYTHON = r"""{%- if tools %}{{- '<|begin_system|>\nTools: ' ~ tools ~ '\n' }}{%- endif %}
{%- for message in messages %}
{%- if message.role == 'assistant' %}{{- '\n<|begin_assistant|>\n' }}
{%- if message.reasoning_content and loop.last %}{{- message.reasoning_content + '\n[BEGIN FINAL RESPONSE]\n' }}{%- endif %}
{{- message.content }}
{%- if message.tool_calls %}{{- '\n<tool_calls>[' }}
{%- for call in message.tool_calls %}
{{- '{"name": "' + call.function.name + '", "arguments": ' + (call.function.arguments | tojson) + '}' }}{{- ', ' if not loop.last }}
{%- endfor %}{{- ']</tool_calls>' }}{%- endif %}
{%- if not loop.last %}{{- '\n<|end|>\n' }}{%- endif %}
{%- else %}{{- '<|begin_' + message.role + '|>\n' + message.content }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '\n<|begin_assistant|>\nHere are my reasoning steps:\n' }}{%- endif %}"""

UNDECLARED = r"""{{- bos_token }}
{%- for message in messages %}
{%- if message.role == 'user' %}{{- '<|User|>' + message.content }}
{%- elif message.role == 'assistant' and message.content is none %}{{- '<|Assistant|></think><|calls_begin|>' }}
{%- for call in message.tool_calls %}
{{- '<|call_begin|>' + call.function.name + '<|call_sep|>' + call.function.arguments + '<|call_end|>' }}
{%- endfor %}{{- '<|calls_end|>' + eos_token }}
{%- elif message.role == 'assistant' %}{{- '<|Assistant|>' + message.content.split('</think>')[-1] + eos_token }}
{%- elif message.role == 'tool' %}{{- '<|output|>' + message.content + '<|output_end|>' }}
{%- else %}{{- message.content }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|Assistant|>' + ('<think>' if thinking else '</think>') }}{%- endif %}"""

CHANNELS = r"""{{- '<|start|>system<|message|>Reasoning: ' + (reasoning_effort or 'medium') + '<|end|>' }}
{%- if tools %}{{- '<|start|>developer<|message|>' }}
{%- for tool in tools %}{{- '// ' + tool.function.description + '\n' + (tool | tojson) + '\n' }}{%- endfor %}{{- '<|end|>' }}{%- endif %}
{%- set last = namespace(name='') %}
{%- for message in messages %}
{%- if message.role == 'tool' %}{{- '<|start|>functions.' + last.name + ' to=assistant<|channel|>commentary<|message|>' + (message.content | tojson) + '<|end|>' }}
{%- elif message.role != 'assistant' %}{{- '<|start|>' + message.role + '<|message|>' + message.content + '<|end|>' }}
{%- elif message.tool_calls %}{%- set call = message.tool_calls[0].function %}{%- set last.name = call.name %}
{%- if message.content and message.thinking %}{{- raise_exception('thinking or content') }}{%- endif %}
{%- if message.content or message.thinking %}{{- '<|start|>assistant<|channel|>analysis<|message|>' + (message.content or message.thinking) + '<|end|>' }}{%- endif %}
{{- '<|start|>assistant to=functions.' + call.name + '<|channel|>commentary json<|message|>' + (call.arguments | tojson) + '<|call|>' }}
{%- elif loop.last and not add_generation_prompt %}
{%- if message.thinking %}{{- '<|start|>assistant<|channel|>analysis<|message|>' + message.thinking + '<|end|>' }}{%- endif %}
{{- '<|start|>assistant<|channel|>final<|message|>' + message.content + '<|return|>' }}
{%- else %}{{- '<|start|>assistant<|channel|>final<|message|>' + message.content + '<|end|>' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant' }}{%- endif %}"""

BRACES = r"""{%- if tools or enable_thinking %}{{- '<|turn>system\n' + ('<|think|>' if enable_thinking else '') + ((tools | tojson) if tools else '') + '<turn|>\n' }}{%- endif %}
{%- macro write(value) %}
{%- if value is string %}{{- '<|"|>' + value + '<|"|>' }}
{%- elif value is mapping %}{{- '{' }}{%- for key, item in value | items %}{{- key + ':' + write(item) }}{{- ',' if not loop.last }}{%- endfor %}{{- '}' }}
{%- elif value is iterable %}{{- '[' }}{%- for item in value %}{{- write(item) }}{{- ',' if not loop.last }}{%- endfor %}{{- ']' }}
{%- else %}{{- value if value is none else value | tojson }}{%- endif %}
{%- endmacro %}
{%- for message in messages %}{{- '<|turn>' + message.role + '\n' + message.content }}
{%- for call in message.tool_calls %}{{- '<|tool_call>call:' + call.function.name + write(call.function.arguments) + '<tool_call|>' }}{%- endfor %}{{- '<turn|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|turn>model\n' }}{%- if not enable_thinking %}{{- '<|channel>thought\n<channel|>' }}{%- endif %}{%- endif %}"""

PYTHON = r"""{%- if tools %}{{- '<|im_start|>system\n' + (tools | tojson) + '<|im_end|>\n' }}{%- endif %}
{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' + message.content }}
{%- if message.tool_calls %}{{- '<|tool_call_start|>[' }}
{%- for call in message.tool_calls %}{{- call.function.name + '(' }}
{%- for key, value in call.function.arguments | items %}{{- key + '=' + ("'" + value + "'" if value is string else value | string) }}{{- ', ' if not loop.last }}{%- endfor %}
{{- ')' }}{{- ', ' if not loop.last }}
{%- endfor %}{{- ']<|tool_call_end|>' }}{%- endif %}{{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""

PYTHON_LINES = (
    PYTHON.replace("'<|tool_call_start|>['", "'<calls>\\n'").replace("']<|tool_call_end|>'", "'\\n</calls>'")
    .replace("{{- ')' }}{{- ', ' if not loop.last }}", "{{- ')' }}{{- '\\n' if not loop.last }}")
    .replace("value | string", "value | tojson")
)

QUOTED = PYTHON.replace("value | string", "'\"%s\"' | format(value)").replace('"\'" + value + "\'"', "'\"' + value + '\"'")

TYPED_TAGS = r"""{%- if tools %}{{- '<|im_start|>system\n' + (tools | tojson) + '<|im_end|>\n' }}{%- endif %}
{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' + message.content }}
{%- if message.tool_calls %}{{- '\n\n<~calls>\n' }}
{%- for call in message.tool_calls %}{{- '<~invoke name="' + call.function.name + '">\n' }}
{%- for key, value in call.function.arguments | items %}
{{- '<~parameter name="' + key + '" string="' + ('true">' + value if value is string else 'false">' + (value | tojson)) + '</~parameter>\n' }}
{%- endfor %}{{- '</~invoke>\n' }}
{%- endfor %}{{- '</~calls>' }}{%- endif %}{{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""

MANY_TYPES = TYPED_TAGS.replace("'false\">'", "('number' if value is number else 'other') + '\">'")

NAMED_TAGS = r"""{%- if tools %}{{- '<|im_start|>system\n' + (tools | tojson) + '<|im_end|>\n' }}{%- endif %}
{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' + message.content }}
{%- for call in message.tool_calls %}{{- '<call><invoke name="' + call.function.name + '">' }}
{%- for key, value in call.function.arguments | items %}{{- '<' + key + '>' ~ value ~ '</' + key + '>' }}{%- endfor %}{{- '</invoke></call>' }}
{%- endfor %}{{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""

CDATA = r"""{%- if tools %}{{- '<|im_start|>system\n' + (tools | tojson) + '<|im_end|>\n' }}{%- endif %}
{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' + message.content }}
{%- for call in message.tool_calls %}{{- '<function name="' + call.function.name + '">' }}
{%- for key, value in call.function.arguments | items %}
{%- if value is string and ('<' in value or '\n' in value) %}{%- set value = '<![CDATA[' + value + ']]>' %}{%- endif %}
{{- '<param name="' + key + '">' ~ value ~ '</param>' }}
{%- endfor %}{{- '</function>' }}{{- '\n' if not loop.last }}
{%- endfor %}{{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""
