"""How much memory an update takes, from shapes alone."""
