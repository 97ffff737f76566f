"""Published benchmarks: GenEval, GenEval 2, T2I-CompBench."""
