"""An encoder of convolutions for edge devices: a few matrix products, no attention, no limit on length."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput


class ConvConfig(PreTrainedConfig):
    """Sizes of a `ConvEncoder`."""

    model_type = "slimcart_conv"

    vocab_size: int = 30522
    hidden_size: int = 128
    num_hidden_layers: int = 2
    kernel_size: int = 3
    hidden_dropout_prob: float = 0.0
    folded: bool = False  # norms are folded into the convolutions: the model can run, not train


class ConvEncoder(PreTrainedModel):
    """Token embeddings and convolutions over them, after Kim 2014 (arXiv 1408.5882) with residual blocks."""

    config_class = ConvConfig
    _input_embed_layer = "embeddings"

    def __init__(self, config: ConvConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.layers = nn.ModuleList(
            ConvBlock(config.hidden_size, config.kernel_size, config.folded) for _ in range(config.num_hidden_layers)
        )
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, weight: Tensor | None = None) -> BaseModelOutput:
        """Token vectors [B, L, H] of token ids [B, L] under a mask [B, L] of ones and zeros.

        Rows with a `weight` [B] of 0 fill up a worker's share of a batch and are no part of its statistics.
        """
        hidden_BHL = self.dropout(self.embeddings(input_ids)).transpose(1, 2)
        counted_BL = attention_mask if weight is None else attention_mask * (weight > 0).unsqueeze(1)
        for layer in self.layers:
            hidden_BHL = layer(hidden_BHL, attention_mask, counted_BL)
        return BaseModelOutput(last_hidden_state=hidden_BHL.transpose(1, 2))  # pyright: ignore[reportArgumentType]


class ConvBlock(nn.Module):
    """x + ReLU(BatchNorm(Conv1d(x))) of the real tokens, which no padding reaches."""

    def __init__(self, width: int, kernel: int, folded: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, kernel, padding=kernel // 2, bias=folded)
        self.norm: Any = nn.Identity() if folded else TokenNorm(width)

    def forward(self, hidden_BHL: Tensor, mask_BL: Tensor, counted_BL: Tensor | None = None) -> Tensor:
        """New token vectors [B, H, L]; `counted_BL`: tokens in the statistics, by default all under the mask."""
        convolved_BHL = self.conv(hidden_BHL * mask_BL.unsqueeze(1))
        if self.training and isinstance(self.norm, TokenNorm):
            normed_BHL = self.norm.of_a_batch(convolved_BHL, mask_BL if counted_BL is None else counted_BL)
        else:
            normed_BHL = self.norm(convolved_BHL)
        return hidden_BHL + torch.relu(normed_BHL)


class TokenNorm(nn.BatchNorm1d):
    """BatchNorm (Ioffe and Szegedy 2015, arXiv 1502.03167) over the tokens of a global batch on all workers.

    Statistics depend on the batch alone, not on its layout: neither padding nor filler rows count, and workers add up
    their sums, forward and backward. A micro-batch cannot know the statistics of later ones, so a model with such norms
    is not trained with accumulation.
    """

    def of_a_batch(self, values_BHL: Tensor, counted_BL: Tensor) -> Tensor:
        """Normed values [B, H, L], in float32 until the end; one token, without variance, by running statistics."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        wide_BHL, counted_B1L = values_BHL.float(), counted_BL.unsqueeze(1).float()
        count = _of_all_workers(counted_B1L.sum().detach())
        mean_H = _of_all_workers((wide_BHL * counted_B1L).sum((0, 2))) / count
        var_H = _of_all_workers(((wide_BHL - mean_H[:, None]).square() * counted_B1L).sum((0, 2))) / count
        mean_H = torch.where(count > 1, mean_H, self.running_mean)
        var_H = torch.where(count > 1, var_H, self.running_var)
        with torch.no_grad():
            unbiased_H = torch.where(count > 1, var_H * count / (count - 1).clamp(min=1), self.running_var)
            self.running_mean.lerp_(mean_H, self.momentum)
            self.running_var.lerp_(unbiased_H, self.momentum)
        scale_H = self.weight.float() * (var_H + self.eps).rsqrt()
        normed_BHL = (wide_BHL - mean_H[:, None]) * scale_H[:, None] + self.bias.float()[:, None]
        return normed_BHL.to(values_BHL.dtype)


def _of_all_workers(values: Tensor) -> Tensor:
    """The sum of all workers' values; its gradient is the sum of their gradients."""
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return values
    from torch.distributed.nn.functional import all_reduce

    return all_reduce(values)


def principal(table_VH: Tensor, width: int) -> Tensor:
    """The rows of a table on its first `width` principal axes, [V, width], scaled to a mean square of 1.

    Raunak et al. 2019 (W19-4328) make word vectors smaller in this way, with further steps.
    """
    centred_VH = table_VH - table_VH.mean(0)
    axes_HH = torch.linalg.eigh(centred_VH.T @ centred_VH).eigenvectors  # the largest last
    projected_VW = centred_VH @ axes_HH.flip(1)[:, :width]
    return projected_VW / projected_VW.square().mean().sqrt()


AutoConfig.register(ConvConfig.model_type, ConvConfig)
AutoModel.register(ConvConfig, ConvEncoder)
