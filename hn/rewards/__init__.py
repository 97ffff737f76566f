"""Reward models: images and prompts in, one score per image out, higher is better."""

from hn.rewards.aesthetic import AestheticReward
from hn.rewards.base import PreprocessedReward, Reward
from hn.rewards.brightness import BrightnessReward
from hn.rewards.clip import ClipReward
from hn.rewards.ensemble import RewardEnsemble, RewardOutput
from hn.rewards.hpsv2 import HPSv2Reward
from hn.rewards.hpsv3 import HPSv3Reward
from hn.rewards.image_reward import ImageReward
from hn.rewards.jpeg_size import JpegSizeReward
from hn.rewards.open_clip import OpenClipReward
from hn.rewards.pickscore import PickScoreReward
from hn.rewards.redness import RednessReward
from hn.rewards.saturation import SaturationReward
from hn.rewards.unified_reward import UnifiedReward
from hn.rewards.vlm import VlmReward
from hn.rewards.vlm_score import VlmScoreReward
from hn.rewards.vqa_score import VqaScoreReward

__all__ = [
    "AestheticReward",
    "BrightnessReward",
    "ClipReward",
    "HPSv2Reward",
    "HPSv3Reward",
    "ImageReward",
    "JpegSizeReward",
    "OpenClipReward",
    "PickScoreReward",
    "PreprocessedReward",
    "RednessReward",
    "Reward",
    "RewardEnsemble",
    "RewardOutput",
    "SaturationReward",
    "UnifiedReward",
    "VlmReward",
    "VlmScoreReward",
    "VqaScoreReward",
]
