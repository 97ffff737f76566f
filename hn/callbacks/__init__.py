"""Lightning callbacks: evaluation, prompt suites, image grids, predictions, the last checkpoint and progress."""
