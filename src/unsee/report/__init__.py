"""The page people read and the summary machines read."""
