"""Lightning callbacks: evaluation, image grids, written predictions, progress, and what makes a long run safe."""
