"""Lightning callbacks: evaluation, prompt suites, image grids, written predictions, the last checkpoint and progress."""
