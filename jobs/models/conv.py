"""An encoder of convolutions for edge devices: a few matrix products, no attention, no limit of length."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
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
    folded: bool = False  # norms are in the weights of the convolutions: a model to run, not to train


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

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> BaseModelOutput:
        """Token vectors [B, L, H] of token ids [B, L] under a mask [B, L] of ones and zeros."""
        hidden_BHL = self.dropout(self.embeddings(input_ids)).transpose(1, 2)
        for layer in self.layers:
            hidden_BHL = layer(hidden_BHL, attention_mask)
        return BaseModelOutput(last_hidden_state=hidden_BHL.transpose(1, 2))  # pyright: ignore[reportArgumentType]


class ConvBlock(nn.Module):
    """x + ReLU(BatchNorm(Conv1d(x))) of the real tokens: padding neither reaches them nor counts in the statistics."""

    def __init__(self, width: int, kernel: int, folded: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, kernel, padding=kernel // 2, bias=folded)
        self.norm: Any = nn.Identity() if folded else nn.BatchNorm1d(width)

    def forward(self, hidden_BHL: Tensor, mask_BL: Tensor) -> Tensor:
        """Token vectors [B, H, L] of such."""
        convolved_BHL = self.conv(hidden_BHL * mask_BL.unsqueeze(1))
        return hidden_BHL + torch.relu(self._normed(convolved_BHL, mask_BL.bool()))

    def _normed(self, convolved_BHL: Tensor, real_BL: Tensor) -> Tensor:
        if not self.training:
            return self.norm(convolved_BHL)
        convolved_BLH = convolved_BHL.transpose(1, 2)
        normed_NH = self._of_a_batch(convolved_BLH[real_BL])
        return normed_NH.new_zeros(convolved_BLH.shape).index_put((real_BL,), normed_NH).transpose(1, 2)

    def _of_a_batch(self, tokens_NH: Tensor) -> Tensor:
        if len(tokens_NH) > 1:
            return self.norm(tokens_NH)
        norm = self.norm  # a worker's share of a last batch: one token varies in nothing
        return F.batch_norm(tokens_NH, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)


def principal(table_VH: Tensor, width: int) -> Tensor:
    """The rows of a table on its first `width` principal axes, [V, width], scaled to a mean square of 1.

    As word vectors are made smaller in Raunak et al. 2019 (W19-4328), without their further steps.
    """
    centred_VH = table_VH - table_VH.mean(0)
    axes_HH = torch.linalg.eigh(centred_VH.T @ centred_VH).eigenvectors  # the largest last
    projected_VW = centred_VH @ axes_HH.flip(1)[:, :width]
    return projected_VW / projected_VW.square().mean().sqrt()


AutoConfig.register(ConvConfig.model_type, ConvConfig)
AutoModel.register(ConvConfig, ConvEncoder)
