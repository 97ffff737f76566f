"""Noise hypernetworks f: (noise, conditioning) -> perturbation of the noise."""

from hn.hypernets.base import Hypernet
from hn.hypernets.finetune import LoraFinetune
from hn.hypernets.lora import LoraHypernet
from hn.hypernets.trainable import Trainable

__all__ = ["Hypernet", "LoraFinetune", "LoraHypernet", "Trainable"]
