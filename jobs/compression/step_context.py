"""The context of compression steps: all that they read beside the model, and the facts that they leave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from cluster.session import JobError
from configs.folder import FolderError, commit, digest_json
from configs.schema.compression import QuantizeSpec, StepSpec
from configs.schema.recipe import Recipe
from configs.schema.tasks import Task
from jobs.data.feeds import Rows, take
from jobs.data.prepared import MANIFEST, ROWS, TOKENIZER, WORDING, Examples, Prepared, PreparedSplit
from jobs.data.snapshot import Snapshot
from jobs.models.reference import check_fits, read_tokenizer
from serving.bundle import Bundle
from serving.checks import Rules, Wording
from serving.classifier import pad_id

if TYPE_CHECKING:
    import numpy as np

    from jobs.training.outputs import TokenOutputs


@dataclass
class StepContext:
    """The context of one compression, from the student to the last file."""

    recipe: Recipe
    student: Path  # the reference bundle under compression
    reference: Bundle
    folder: Path  # for files in between; gone afterwards
    judged: bool = False  # whether a step that loses too much ends the job
    snapshot: Snapshot | None = None  # of the validation rows, whose texts files are timed on
    facts: dict[str, Any] = field(default_factory=dict)  # by the name of a step: what it says of itself, for the report
    tokenizer: Tokenizer = field(init=False)  # gives the ids that the model takes; see `adopt`

    def __post_init__(self) -> None:
        self.tokenizer = read_tokenizer(self.student / self.reference.tokenizer)

    @property
    def task(self) -> Task:
        """The record of the recipe's task."""
        return self.recipe.judged_by

    @property
    def inputs(self) -> list[str]:
        """Inputs of the exported graph."""
        return self.reference.inputs

    @property
    def bits(self) -> int:
        """Bits of a weight in the last file; 8 where no step says."""
        return min((step.bits for step in self.recipe.compression if isinstance(step, QuantizeSpec)), default=8)

    @property
    def output(self) -> Path:
        """The folder of the recipe's results."""
        assert self.recipe.output is not None
        return Path(self.recipe.output)

    @cached_property
    def checks(self) -> Rules | None:
        """What a text is checked by before it goes out; None where it is not.

        Raises `JobError` without rows, or where an earlier version prepared them and learned nothing of the kind.
        """
        if not self.recipe.checks.enabled:
            return None
        if not (learned := self.prepared.folder / WORDING).exists():
            raise JobError(f"checks.enabled: true: {learned}: no such file; run jobs.prepare again")
        return Rules(asked=self.recipe.checks, wording=Wording.model_validate_json(learned.read_text(encoding="utf-8")))

    @cached_property
    def prepared(self) -> Prepared:
        """The rows in the ids of `tokenizer`, from `prepare` or `adopt`. Raises `JobError` where there are none."""
        reasons = ["the recipe has no output"]
        for name in ("prepared_student", "prepared") if self.recipe.output else ():
            try:
                prepared = Prepared.open(self.output / name)
                check_fits(self.student, self.reference, prepared)
            except FolderError as error:
                reasons.append(str(error))
            else:
                return prepared
        raise JobError(f"compression needs the rows that the student learned from: {reasons[-1]}")

    def rows(self, split: PreparedSplit, most: int) -> Rows:
        """At most `most` rows of a split, evenly spread over it, as the exported graph takes them."""
        return self.fed(self.prepared.examples(split), most)

    def fed(self, examples: Examples, most: int) -> Rows:
        """As `rows`, of examples that were read."""
        return take(examples, self.inputs, pad_id(self.tokenizer), most)

    def validation(self, limited: bool) -> Examples | None:
        """The rows that steps and files are judged on; None where no such rows were prepared.

        Raises `JobError` in place of None if `limited`: a limit could not be checked.
        """
        try:
            return self.prepared.examples("validation")
        except JobError as error:
            if not limited:
                return None
            raise JobError(
                f"{error}; run jobs.prepare, or set no limit to what is lost: budget.min_retention=0, a step's "
                "max_loss=1, export.parity=0"
            ) from None

    def teacher_logits(self, spec: StepSpec, instead: str) -> np.ndarray:
        """Stored teacher logits of the training rows, [N, C]. Raises `JobError`, which names what to do `instead`."""
        from jobs.training.outputs import read_logits

        return self._taught(spec, instead, read_logits)

    def teacher_tokens(self, spec: StepSpec, instead: str) -> TokenOutputs:
        """What the teacher, a decoder, says of the training rows. Raises `JobError` as `teacher_logits`."""
        from jobs.training.outputs import TokenOutputs

        return self._taught(spec, instead, TokenOutputs.read)

    def _taught(self, spec: StepSpec, instead: str, read: Callable[[Path, PreparedSplit], Any]) -> Any:
        try:
            outputs = read(self.output / "teacher_outputs", "train")
        except FolderError as error:
            raise JobError(f"compression.{spec.title}: {error}; run jobs.teach, or {instead}") from None
        if len(outputs) != len(self.prepared.examples("train")):
            raise JobError(
                f"compression.{spec.title}: the stored teacher outputs are of other rows; run jobs.teach again"
            )
        return outputs

    def max_loss(self, spec: StepSpec) -> float:
        """The share of the validation metric that a step may lose."""
        return max(0.0, 1 - self.recipe.budget.min_retention) if spec.max_loss is None else spec.max_loss

    def note(self, spec: StepSpec, **facts: Any) -> None:
        """Add to the facts of a step."""
        self.facts.setdefault(spec.title, {}).update(facts)

    def adopt(self, tokenizer: Tokenizer) -> None:
        """Replace the tokenizer by `tokenizer`, and tokenise the texts of the prepared rows again.

        The rows stay the same one by one, so the teacher's outputs still go with them. Raises `JobError` where the
        texts are not those that were prepared.
        """
        before = self.prepared
        cutting = Tokenizer.from_str(tokenizer.to_str())
        cutting.enable_truncation(before.manifest["max_length"])

        def fill(aside: Path) -> dict[str, Any]:
            import pyarrow.parquet

            from jobs.data.tokenise import ROWS_PER_CALL, checked, tokenise_classes

            (aside / ROWS).mkdir()
            cutting.save(str(aside / TOKENIZER), pretty=False)
            for split, fingerprint in before.manifest["fingerprints"].items():
                table, current = checked(self.recipe.data, split)
                if current != fingerprint:
                    raise JobError(f"data.{split}: changed since {before.folder} was made; run jobs.prepare again")
                parts = [
                    tokenise_classes(table.slice(start, ROWS_PER_CALL), cutting.to_str(), before.labels)
                    for start in range(0, len(table), ROWS_PER_CALL)  # encodings take ten times what is kept of them
                ]
                pyarrow.parquet.write_table(pyarrow.concat_tables(parts), aside / ROWS / f"{split}.parquet")
            return before.manifest | {"key": digest_json([before.key, cutting.to_str()])}

        folder = self.folder / "prepared"
        commit(folder, MANIFEST, fill)
        self.tokenizer, self.prepared = tokenizer, Prepared.open(folder)
