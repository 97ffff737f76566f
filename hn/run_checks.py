"""Options of a run that cannot work, told by their values: asked before weights are loaded, and by what has them."""

from __future__ import annotations

from collections.abc import Iterable

from lightning.pytorch.callbacks import Callback

from hn.generators.base import Generator

_VALIDATION_SCORES = tuple(
    f"val/{score}" for score in ("held_out_reward", "reward", "geneval", "kl_nats", "fidelity", "diversity")
)


def check_options(
    images_per_prompt: int,
    warmup_steps: int,
    decay_steps: int | None,
    score_batch_size: int | None,
    generator: type[Generator],
    balance_gradients: bool,
) -> None:
    """Refuse a module's options where their values tell that it cannot work; needs neither generator nor rewards.

    Args:
        images_per_prompt, warmup_steps, decay_steps, score_batch_size: as for `NoiseHypernetModule`.
        generator: class of the generator.
        balance_gradients: that of the reward ensemble.

    Raises:
        ValueError: if one is out of range, or if scores cannot be computed in parts.
    """
    if images_per_prompt < 1 or warmup_steps < 0:
        raise ValueError(
            "images_per_prompt must be at least 1 and warmup_steps not negative; "
            f"got {images_per_prompt} and {warmup_steps}."
        )
    if decay_steps is not None and decay_steps < 1:
        raise ValueError(f"decay_steps must be at least 1, not {decay_steps}; leave it out for a constant rate.")
    if score_batch_size is None:
        return
    if score_batch_size < 1:
        raise ValueError(f"score_batch_size must be at least 1, not {score_batch_size}.")
    if not (hasattr(generator, "denoise") and hasattr(generator, "decode")):
        raise ValueError(
            f"score_batch_size needs a generator that denoises and decodes; {generator.__name__} only generates."
        )
    if balance_gradients:
        raise ValueError("balance_gradients compares gradients of the whole batch; leave out score_batch_size or it.")


def check_training(
    precision: str | int | None, score_batch_size: int | None, balance_gradients: bool, gradient_free: bool
) -> None:
    """Raises:
    ValueError: if the rewards are not for training, or the trainer's precision does not go with a module's options.
    """
    if gradient_free:
        raise ValueError(
            "A gradient_free reward ensemble is for searches without gradients, and cannot be trained on: leave out "
            "gradient_free (model.reward.init_args.gradient_free)."
        )
    if str(precision) in ("16", "16-mixed") and (score_batch_size or balance_gradients):
        raise ValueError(
            "score_batch_size and balance_gradients compute gradients before the loss is scaled, and small ones "
            "are lost in float16: use --trainer.precision bf16-mixed."
        )


def check_monitors(
    monitors: Iterable[tuple[type[Callback], str | None]], is_evaluated: bool, has_held_out: bool
) -> None:
    """Refuse callbacks that watch a score of validations which the `Evaluation` callback would log, and will not.

    Args:
        monitors: classes of callbacks, and what each of them monitors.
        is_evaluated: whether there is an `Evaluation` callback.
        has_held_out: whether there are held-out rewards.

    Raises:
        ValueError: names the callback and what to do.
    """
    for callback, monitor in monitors:
        if not is_evaluated and monitor in _VALIDATION_SCORES:
            why = "without the callback hn.callbacks.evaluation.Evaluation (`callbacks.evaluation`)"
            remedy = "Add that one"
        elif monitor == "val/held_out_reward" and not has_held_out:
            why, remedy = "without a held-out reward (`model.reward.init_args.held_out`)", "Add one"
        else:
            continue
        raise ValueError(
            f"{callback.__name__} monitors {monitor}, which is not measured {why}. {remedy}, or let "
            f"{callback.__name__} monitor something else, like "
            f"{'val/reward' if is_evaluated else 'train/reward'}, or drop it (null)."
        )


def check_comparison(is_evaluated: bool, is_finetune: bool) -> None:
    """Refuse a comparison without an `Evaluation` callback, or of an experiment that trains a fine-tune.

    Raises:
        ValueError: says what to do.
    """
    if not is_evaluated:
        raise ValueError("A comparison needs the callback hn.callbacks.evaluation.Evaluation.")
    if is_finetune:
        raise ValueError("This experiment trains a fine-tune; compare the hypernetwork experiment that names it.")
