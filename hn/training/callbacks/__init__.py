"""Lightning callbacks: evaluation, suites, image grids, predictions, progress, and what makes a long run safe."""
