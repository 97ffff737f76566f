"""Lightning callbacks: evaluation, image grids, written predictions, the last checkpoint and progress."""
