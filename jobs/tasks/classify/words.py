"""Sentences of a classifier's model card."""

from __future__ import annotations

from jobs.measure.card import Words

WORDS = Words(
    does="Says to which of {classes} classes {inputs} belongs.",
    limits="""\
- Every input is given one of these labels, also one that belongs to none; `score` says how sure the model is.
- An input is cut after {max_length} tokens.""",
    pipeline="text-classification",
)
