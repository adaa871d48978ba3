"""How well a ranking does; knows no method."""
