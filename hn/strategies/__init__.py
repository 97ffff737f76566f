"""How several processes share a training, beyond what Lightning has."""

from hn.strategies.sharded import ShardedStrategy

__all__ = ["ShardedStrategy"]
