"""Turn the raw bytes that an engine generates into the text that a client reads; pure."""

from lllms_core.text.output import OutputText
from lllms_core.text.scores import ScoreLog
from lllms_core.text.stops import StopMatcher

__all__ = ["OutputText", "ScoreLog", "StopMatcher"]
