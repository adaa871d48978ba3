"""The method: noise, losses, Fisher information, unlearning, scores."""
