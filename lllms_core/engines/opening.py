"""What a batching model makes of a request before anything is evaluated: a run for each of its answers."""

from lllms_core.chat import ChatTemplate, Prompt, Segment, answer_constraint, chat_prompt
from lllms_core.engines.answer import AnswerText
from lllms_core.engines.choices import Choices, choice
from lllms_core.engines.run import Run
from lllms_core.engines.tokens import TokenModel
from lllms_core.errors import InvalidRequest
from lllms_core.text import ScoreLog
from lllms_core.types import Request


def open_runs(model: TokenModel, template: ChatTemplate | None, request: Request) -> list[Run]:
    """Return the runs of a request, of which all but the first wait in its `Choices`: they share its prompt.

    Raises `RequestError` for what can never be served.
    """
    shown = read_prompt(template, request)
    prompt = _tokens(model, request, shown)
    if not prompt:
        raise InvalidRequest(f"the prompt is empty, and model '{request.model}' needs a token to begin with", "prompt")
    limit = len(prompt) + model.answer_limit(request, len(prompt))
    constraint = request.constraint
    if request.tools or (constraint is not None and shown.form.channels is not None):
        constraint = answer_constraint(request, shown.form, model.grammar_names())
    choices: Choices[Run] = Choices(request, len(prompt), request.count)
    opening = None if constraint is None else _opening(model, request, shown)
    runs = []
    for index in range(request.count):
        matcher = None if constraint is None else model.matcher(constraint)
        output = AnswerText(request, shown.form, thinking=shown.thinking, index=index)
        log = ScoreLog(output) if request.scored else None
        run = Run(choice(request, index), choices, index, [*prompt], len(prompt), limit, output, log, matcher, opening)
        runs.append(run)
    if request.scores_prompt:
        runs[0].prompt_scores = []
    choices.held = runs[1:]
    return runs


def read_prompt(template: ChatTemplate | None, request: Request) -> Prompt:
    """Return the prompt of a request as text. Raises `RequestError` for a chat that the template has no place for."""
    if request.messages is None:
        text = request.prompt if isinstance(request.prompt, str) else ""
        return Prompt([Segment(text, parse_special=True)])
    if template is None:
        raise InvalidRequest(
            f"model '{request.model}' has no chat template; set options.chat_template or use /v1/completions",
            "messages",
        )
    return chat_prompt(template, request)


def _tokens(model: TokenModel, request: Request, prompt: Prompt) -> list[int]:
    if isinstance(request.prompt, tuple):
        return [*request.prompt]
    return model.tokenize(prompt.segments) if request.suffix is None else model.infill(request)


def _opening(model: TokenModel, request: Request, prompt: Prompt) -> int | None:
    """The token with which a constrained answer may begin to think by itself, if it is one token."""
    form = prompt.form.reasoning
    if form is None or prompt.thinking:
        return None
    over = prompt.segments[-1].text.rstrip().endswith(form.end)
    continued = request.messages is not None and request.messages[-1].role == "assistant"
    return None if over or continued else model.control_token(form.start)
