"""Hidden states that distillation compares: token vectors after an encoder's layers, and relations of its attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from configs.loader import UsageError
from jobs.models.encoder import EncoderClassifier
from jobs.models.layers import layers_name

LIKE_BERT = ("attention.self.query", "attention.self.key", "attention.self.value")
PROJECTIONS = {  # in a layer, from its input to queries, keys and values, by the model type of the config
    "bert": LIKE_BERT,
    "roberta": LIKE_BERT,
    "xlm-roberta": LIKE_BERT,
    "electra": LIKE_BERT,
    "distilbert": ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
}


class HiddenStates(NamedTuple):
    """An encoder's logits for a batch, and its hidden states on the way."""

    logits_BC: Tensor
    hidden: list[Tensor]  # token vectors after the given layers, each [B, L, H]
    relations: list[Tensor]  # queries, keys and values of the relation layer, each [B, L, H]; empty without one


def look_inside(
    model: EncoderClassifier, inputs: dict[str, Tensor], layers: Sequence[int], relation_layer: int | None
) -> HiddenStates:
    """Run `model`; layers are counted from 1, and from the last, -1. Raises `UsageError` for a missing layer."""
    count = model.encoder.config.num_hidden_layers
    wanted = [place(layer, count, "hidden_layers") for layer in layers]
    tensors = dict(inputs)
    if not model.has_types:
        tensors.pop("token_type_ids", None)
    states = model.encoder(**tensors, output_hidden_states=True).hidden_states  # the embeddings come first
    relations: list[Tensor] = []
    if relation_layer is not None:
        inside = place(relation_layer, count, "relation_layer")
        relations = [projection(states[inside - 1]) for projection in _projections(model, inside)]
    return HiddenStates(
        model.answer(states[-1], inputs["attention_mask"]), [states[layer] for layer in wanted], relations
    )


def place(layer: int, count: int, field: str) -> int:
    """The place, counted from 1, of a layer given from 1 or from the last, -1. Raises `UsageError` for no layer."""
    number = layer if layer > 0 else count + 1 + layer
    if not 1 <= number <= count:
        raise UsageError(f"distillation.{field}: {layer}: the teacher has layers 1 to {count}, or -{count} to -1")
    return number


def relation_width(model: EncoderClassifier, layer: int) -> int:
    """Width of the queries, keys and values of one layer, counted as in `look_inside`."""
    query: Any = _projections(model, place(layer, model.encoder.config.num_hidden_layers, "relation_layer"))[0]
    return query.out_features


def _projections(model: EncoderClassifier, layer: int) -> list[nn.Module]:
    kind = model.encoder.config.model_type
    names = projection_names(kind)
    block = model.encoder.get_submodule(f"{layers_name(model.encoder)}.{layer - 1}")
    return [block.get_submodule(name) for name in names]


def projection_names(kind: str) -> tuple[str, str, str]:
    """`PROJECTIONS` of a model type. Raises `UsageError` for an unknown type."""
    if kind not in PROJECTIONS:
        raise UsageError(
            f"distillation.weights.relations: queries, keys and values of {kind!r} models are not known; "
            f"of {', '.join(PROJECTIONS)}"
        )
    return PROJECTIONS[kind]


class Observed(nn.Module):
    """A student in training that gives its hidden states beside its logits.

    Its vectors go through a learned projection to the teacher's width (Jiao et al. 2020, TinyBERT, arXiv 1909.10351,
    section 3.1), which begins as the identity where both widths are equal and is thrown away after training.
    """

    def __init__(self, student: EncoderClassifier, layers: int, cosine: bool, relations: bool, width: int) -> None:
        """`layers`: number of its layers, spread evenly up to the last, that are compared with the teacher's."""
        super().__init__()
        self.student = student
        own, count = student.encoder.config.hidden_size, student.encoder.config.num_hidden_layers
        self._layers = [max(1, round((number + 1) * count / layers)) for number in range(layers)]
        self._relations = -1 if relations else None
        self.projections = nn.ModuleList(_projection(own, width) for _ in self._layers)
        self.last = _projection(own, width) if cosine and own != width else None
        self._cosine = cosine

    def forward(self, **inputs: Tensor) -> HiddenStates:
        """Token vectors of the teacher's width, for each of its layers; then the last ones if a cosine needs them."""
        layers = [*self._layers, -1] if self._cosine else self._layers
        seen = look_inside(self.student, inputs, layers, self._relations)
        projections: list[Any] = [*self.projections, *([self.last] if self._cosine else [])]
        pairs = zip(seen.hidden, projections, strict=True)
        hidden = [each if projection is None else projection(each) for each, projection in pairs]
        return seen._replace(hidden=hidden)

    def gradient_checkpointing_enable(self) -> None:
        """Compute the activations of each layer again in the backward pass."""
        self.student.gradient_checkpointing_enable()


def _projection(own: int, width: int) -> nn.Linear:
    projection = nn.Linear(own, width, bias=False)
    if own == width:
        nn.init.eye_(projection.weight)
    return projection
