"""Training models, with and without some of the records."""
