"""The table of all hostile inputs, and which routes they reach."""

import hostile_bodies_for_tests as bodies
import hostile_compat_for_tests as compat
import hostile_frames_for_tests as frames
import hostile_leaving_for_tests as leaving
import hostile_lines_for_tests as lines
import hostile_ollama_for_tests as ollama
import hostile_work_for_tests as work
from hostile_for_tests import Input

ALL: tuple[Input, ...] = (
    *bodies.inputs(), *work.inputs(), *lines.inputs(), *frames.inputs(), *leaving.inputs(), *compat.inputs(),
    *ollama.inputs(),
)
"""Sorted by kind; each has a unique name."""
