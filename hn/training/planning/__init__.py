"""Memory of a training update, counted from shapes alone."""
