"""The recipe that trains every checkpoint of the miniature: `make miniature`."""
