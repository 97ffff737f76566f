"""Reward models: images and prompts in, one score per image out, higher is better."""

from hn.rewards.base import Reward
from hn.rewards.clip import ClipReward
from hn.rewards.ensemble import RewardEnsemble, RewardOutput
from hn.rewards.image_reward import ImageReward
from hn.rewards.redness import RednessReward

__all__ = ["ClipReward", "ImageReward", "RednessReward", "Reward", "RewardEnsemble", "RewardOutput"]
