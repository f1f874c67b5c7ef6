"""Sentences of a decoder's model card."""

from __future__ import annotations

from jobs.measure.card import Words

WORDS = Words(
    does="Writes a text that follows from {inputs}.",
    limits="""\
- It writes the likeliest token, one after the other, and may write what is not true of its input.
- What it reads and what it writes have {max_length} tokens together; a longer input is cut.""",
    pipeline="text-generation",
)
