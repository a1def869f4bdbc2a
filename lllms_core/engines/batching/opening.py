"""From a request to its runs, one for each answer, before anything is evaluated."""

from array import array
from collections.abc import Callable
from typing import cast

from lllms_core.chat import ChatTemplate, LazyGrammar, Prompt, Segment, answer_constraint, chat_prompt
from lllms_core.engines.answer_text import AnswerText
from lllms_core.engines.base import ContractBroken
from lllms_core.engines.batching.relaxing import relax_schemas
from lllms_core.engines.batching.run import Run
from lllms_core.engines.capabilities import Infills, writes
from lllms_core.engines.choices import Choices, choice
from lllms_core.engines.tokens import TokenModel
from lllms_core.errors import ContextOverflow, InvalidRequest
from lllms_core.text import ScoreLog
from lllms_core.types import ChatRequest, Constraint, Request, TextRequest

_SHORT = 1 << 14
"""A text of up to this many characters is tokenised without counting its bytes."""


def open_runs(
    model: TokenModel, template: ChatTemplate | None, request: Request,
) -> tuple[list[Run], Constraint | LazyGrammar | None]:
    """Return the runs of a request, and the constraint still to be enforced in each.

    All but the first wait in its `Choices`, since they share its prompt. Any thread may call this. Raises
    `RequestError` for a request that can never be served.
    """
    shown = read_prompt(template, request, lambda text: _check_length(model, request, text))
    prompt = _tokens(model, request, shown)
    if not prompt:
        raise InvalidRequest(f"the prompt is empty, and model '{request.model}' needs a token to begin with", "prompt")
    limit = len(prompt) + model.answer_limit(request, len(prompt))
    enforced, unenforced = relax_schemas(model, request)
    constraint: Constraint | LazyGrammar | None = enforced.constraint
    if isinstance(enforced, ChatRequest) and (
        enforced.tools or (constraint is not None and shown.form.channels is not None)
    ):
        constraint = answer_constraint(enforced, shown.form, model.grammar_names())
        if isinstance(constraint, LazyGrammar) and not writes(type(model), "matcher"):
            constraint = None  # the engine enforces no grammars
    choices: Choices[Run] = Choices(request, len(prompt), request.count)
    choices.unenforced = () if constraint is None else unenforced
    opening = _opening(model, request, shown) if isinstance(constraint, Constraint) else None
    prediction = _prediction(model, request)
    runs = []
    for index in range(request.count):
        output = AnswerText(request, shown.form, thinking=shown.thinking, index=index)
        output.kept = isinstance(constraint, Constraint) and constraint is not enforced.constraint
        runs.append(Run(
            request=choice(request, index), choices=choices, index=index, tokens=[*prompt], prompt_length=len(prompt),
            limit=limit, output=output, log=ScoreLog(output) if request.scored else None, opening=opening,
            prediction=prediction,
        ))
    if request.scores_prompt:
        runs[0].prompt_scores = []
    choices.held = runs[1:]
    return runs, constraint


def count_prompt(model: TokenModel, template: ChatTemplate | None, request: Request) -> int:
    """Return the number of tokens in the prompt of a request. Raises `RequestError`, as `read_prompt` does."""
    return len(_tokens(model, request, read_prompt(template, request)))


def read_prompt(
    template: ChatTemplate | None, request: Request, check_length: Callable[[str], None] | None = None,
) -> Prompt:
    """Return the prompt of a request as text. Raises `RequestError` for a chat that the template has no place for.

    `check_length` may refuse the text before the rest is done.
    """
    if isinstance(request, TextRequest):
        text = request.prompt if isinstance(request.prompt, str) else ""
        if check_length is not None and request.input_extra is None:
            check_length(text)
        return Prompt([Segment(text, parse_special=True)])
    if template is None:
        raise InvalidRequest(
            f"model '{request.model}' has no chat template; use /v1/completions, or set options.chat_template if its "
            "engine has that option",
            "messages",
        )
    return chat_prompt(template, request, check_length)


def _check_length(model: TokenModel, request: Request, text: str) -> None:
    """Refuse a text of more bytes than the context can hold."""
    if len(text) <= _SHORT or model.longest_token is None:
        return
    most = model.longest_token * model.context_length
    size = sum(len(text[at : at + _SHORT].encode(errors="replace")) for at in range(0, len(text), _SHORT))
    if size > most:
        raise ContextOverflow(
            f"the prompt has {size} bytes of text, but model '{request.model}' holds {model.context_length} tokens, "
            f"which stand for {most} bytes at most; shorten it, or raise options.context_length",
            request.source,
            "context_length_exceeded",
        )


def _tokens(model: TokenModel, request: Request, prompt: Prompt) -> list[int]:
    if isinstance(request, TextRequest) and request.fills_gap:
        return _integers("infill", cast(Infills, model).infill(request))
    if isinstance(request, TextRequest) and isinstance(request.prompt, tuple):
        return [*request.prompt]
    return _integers("tokenize", model.tokenize(prompt.segments))


def _prediction(model: TokenModel, request: Request) -> list[int]:
    """The tokens of the text that the client expects, as far as an answer can be that long."""
    if not isinstance(request, ChatRequest) or not request.prediction:
        return []
    text = request.prediction
    if model.longest_token is not None:
        text = text[: model.longest_token * model.context_length]
    tokens = _integers("tokenize", model.tokenize([Segment(text, parse_special=False)]))
    begin = model.tokenize([])  # a vocabulary may begin every prompt with a token
    return tokens[len(begin) :] if tokens[: len(begin)] == begin else tokens


def _integers(method: str, tokens: list[int]) -> list[int]:
    try:
        array("q", tokens)  # looks at each of them, in C
    except TypeError:
        raise ContractBroken(f"`{method}` returned no tokens; it must return a list of integers") from None
    return tokens


def _opening(model: TokenModel, request: Request, prompt: Prompt) -> int | None:
    """The token with which a constrained answer may begin to think by itself, if it is one token."""
    form = prompt.form.reasoning
    if form is None or prompt.thinking:
        return None
    over = prompt.segments[-1].text.rstrip().endswith(form.end)
    continued = isinstance(request, ChatRequest) and request.continued
    return None if over or continued else model.control_token(form.start)
