"""Options that train the tiny experiment by forward passes alone."""

FORWARD_ONLY = [
    "--model.hypernet",
    "{class_path: hn.hypernets.conv.ConvHypernet, init_args: {width: 8, blocks: 1, heads: 1, text_width: 8, "
    "token_frequencies: 2}}",
    "--model.estimator",
    "{class_path: hn.training.estimators.ScoreFunction, init_args: {updates_per_batch: 2, subspace: "
    "{class_path: hn.generators.subspaces.LowFrequency, init_args: {frequencies: 2}}}}",
    "--model.regulariser",
    "sum",
    "--model.reward_weight",
    "100",
]
