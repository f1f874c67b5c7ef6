"""Students: what learns from the teacher."""

from __future__ import annotations

import copy

from torch import nn

from configs.loader import UsageError
from jobs.models.encoder import EncoderClassifier, from_config
from jobs.models.spec import StudentSpec

LAYERS = {  # where an encoder keeps its layers, by the model type of its config
    "bert": "encoder.layer",
    "roberta": "encoder.layer",
    "xlm-roberta": "encoder.layer",
    "electra": "encoder.layer",
    "distilbert": "transformer.layer",
    "modernbert": "layers",
}
DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout")


def build_student(teacher: EncoderClassifier, spec: StudentSpec) -> EncoderClassifier:
    """Some layers of the teacher, with its embeddings and head (as DistilBERT is started, arXiv 1910.01108)."""
    count = teacher.encoder.config.num_hidden_layers
    chosen = choose_layers(spec.layers, count)
    config = copy.deepcopy(teacher.encoder.config)
    config.num_hidden_layers = len(chosen)
    if getattr(config, "layer_types", None):  # a layer keeps the kind of attention that it was trained with
        config.layer_types = [config.layer_types[index] for index in chosen]
    for name in DROPOUTS:  # the teacher's outputs are noise enough
        if hasattr(config, name):
            setattr(config, name, spec.dropout)
    student = from_config(config, teacher.pooling, teacher.classes, spec.dropout)
    path = LAYERS.get(config.model_type)
    if path is None:
        raise UsageError(f"student.layers: no layers known for {config.model_type!r}; known: {', '.join(LAYERS)}")
    weights = {name: tensor for name, tensor in teacher.state_dict().items() if not name.startswith(f"encoder.{path}.")}
    layers: nn.ModuleList = teacher.encoder.get_submodule(path)  # pyright: ignore[reportAssignmentType]
    for new, old in enumerate(chosen):
        weights |= {f"encoder.{path}.{new}.{name}": tensor for name, tensor in layers[old].state_dict().items()}
    try:
        student.load_state_dict(weights)
    except RuntimeError:  # ModernBERT's first layer has no norm before its attention, the others have one
        raise UsageError(
            f"student.layers: {chosen}: the teacher's layers do not fit in these places; keep layer 0 first"
        ) from None
    return student


def choose_layers(asked: int | list[int], count: int) -> list[int]:
    """Indices of the teacher's layers: those asked for, or so many evenly spaced ones from first to last.

    3 of 6 are 0, 2, 5; 2 of 6 are 0, 5; one is the first.
    """
    if isinstance(asked, int):
        if asked > count:
            raise UsageError(f"student.layers: {asked} layers asked, the teacher has {count}")
        return [round(index * (count - 1) / max(1, asked - 1)) for index in range(asked)]
    if not asked or max(asked) >= count or len(set(asked)) != len(asked):
        raise UsageError(f"student.layers: {asked}: give different indices from 0 to {count - 1}")
    return list(asked)
