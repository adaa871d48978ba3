"""Training-data attribution for text-to-image models by unlearning."""

from importlib.metadata import version

__version__ = version("unsee")
