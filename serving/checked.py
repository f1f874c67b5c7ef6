"""Texts of a bundle with checks: no piece goes out before the whole text is checked, see `serving.checks`.

A text with faults is written again, some candidates at once; one that still has faults is held back with the reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from functools import partial

from serving.checks import reason_of
from serving.generator import Again, Generator, best_of
from serving.rounds import Rounds
from serving.texts import Manner, Texts, Written


class CheckedTexts(Texts):
    """See `serving.texts.Texts`: each text is one piece."""

    def __init__(
        self,
        generator: Generator,
        rounds: Rounds,
        words: Sequence[str],
        prompts: Sequence[Sequence[int]],
        most: Sequence[int],
        manner: Manner,
    ) -> None:
        """`words`: the prompts as texts. Raises `Refused`."""
        super().__init__(prompts, most, manner, generator.tokenizer)
        self._generator, self._rounds, self._prompts = generator, rounds, words

    async def pieces(self, until: float) -> AsyncIterator[Written]:
        """As of `Texts`, the texts in the order in which they are ready."""
        texts = [""] * len(self._prompts)
        async for each in super().pieces(until):
            texts[each.index] += each.text
            if each.finish_reason:
                yield await self._checked(replace(each, text=texts[each.index]), until)

    async def _checked(self, written: Written, until: float) -> Written:
        checks, prompt = self._generator.checks, self._prompts[written.index]
        assert checks is not None
        text, faults = written.text, checks.faults(written.text, prompt)
        if faults:
            again = await self._again(written.index, until)
            text, faults = best_of((text, faults), again.texts, prompt, checks)
            if written.usage:  # as OpenAI counts what `best_of` writes: all of it
                more = written.usage["completion_tokens"] + again.tokens
                written = replace(written, usage={**written.usage, "completion_tokens": more})
        return replace(written, text="" if faults else text, held=bool(faults), reason=reason_of(faults))

    async def _again(self, index: int, until: float) -> Again:
        writing = self.writings[index]
        task = partial(self._generator.written_again, writing.prompt, writing.most, writing.sampling, writing.text.stop)
        async with asyncio.timeout_at(until):
            return await asyncio.wrap_future(self._rounds.ask(task))
