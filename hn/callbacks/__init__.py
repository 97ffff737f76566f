"""Lightning callbacks: evaluation, image grids, progress, and the record of a run."""
