"""`hn study`: one training for each value of an option."""
