"""What `hn compare` measures, and what it keeps on disk while it does."""
