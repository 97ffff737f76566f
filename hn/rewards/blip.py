"""The network behind ImageReward: BLIP's image tower, its text tower with cross attention, and a head."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BlipTextConfig, BlipVisionConfig, BlipVisionModel
from transformers.models.blip.modeling_blip_text import BlipTextModel

from hn.utils.dtype import full_precision
from hn.utils.layers import checkpoint_layers

HEAD_WIDTHS = (1024, 128, 64, 16, 1)
PROJECTION_WIDTH = 256


class BlipScorer(nn.Module):
    """A score for an image and a text: a BERT attends to the tokens of a ViT by cross attention, and five linear layers
    map its output at [CLS] to one number (ImageReward, arXiv 2304.05977; BLIP, arXiv 2201.12086).

    The towers are those of transformers. As published, the head has no activations between its layers.

    Args:
        vision: sizes of the image tower.
        text: sizes of the text tower.
    """

    def __init__(self, vision: BlipVisionConfig, text: BlipTextConfig):
        super().__init__()
        self.visual_encoder = BlipVisionModel(vision)
        self.text_encoder = BlipTextModel(text, add_pooling_layer=False)
        # BLIP's contrastive projections: the score does not use them, but they belong to the checkpoint.
        self.vision_proj = nn.Linear(vision.hidden_size, PROJECTION_WIDTH)
        self.text_proj = nn.Linear(text.hidden_size, PROJECTION_WIDTH)
        widths = zip((text.hidden_size, *HEAD_WIDTHS), HEAD_WIDTHS, strict=False)
        # Named as published; the missing numbers are dropouts, which do nothing in a frozen reward.
        self.mlp = nn.ModuleDict({n: nn.Linear(*each) for n, each in zip("02467", widths, strict=True)})

    def forward(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Scores [B] of preprocessed images [B, 3, S, S] and tokens [B, L] (int64, with their mask), not yet
        standardised; in float32 or float64, also under autocast."""
        return self.head(self.encode_text(input_ids, attention_mask, self.encode_image(pixel_values)))

    def encode_image(self, pixel_values: Tensor) -> Tensor:
        """Image tokens [B, 1 + patches, vision width] of preprocessed images [B, 3, S, S]."""
        return self.visual_encoder(pixel_values.to(self.visual_encoder.dtype)).last_hidden_state

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor, image_tokens: Tensor) -> Tensor:
        """The text tower's output [B, text width] at [CLS], after reading all `image_tokens` [B, T, vision width]."""
        # The mask as it is added to attention scores: given a 0/1 mask, transformers checks its values, which
        # synchronises with the device.
        dtype = self.text_encoder.dtype
        added = torch.zeros_like(attention_mask, dtype=dtype).masked_fill(attention_mask == 0, torch.finfo(dtype).min)
        output = self.text_encoder(input_ids, attention_mask=added[:, None, None], encoder_hidden_states=image_tokens)
        return output.last_hidden_state[:, 0]

    def head(self, features: Tensor) -> Tensor:
        """Features [B, text width] -> scores [B], in float32 or float64: half precision is too coarse for scores."""
        with torch.autocast(features.device.type, enabled=False):
            features = full_precision(features)
            for layer in self.mlp.values():
                weight, bias = (full_precision(layer.get_parameter(name)) for name in ("weight", "bias"))
                features = functional.linear(features, weight, bias)
            return features.squeeze(-1)

    def enable_gradient_checkpointing(self) -> None:
        """Recompute the activations of each layer of both towers in the backward pass, to save memory."""
        checkpoint_layers(self.visual_encoder.encoder.layers)
        checkpoint_layers(self.text_encoder.encoder.layer)
