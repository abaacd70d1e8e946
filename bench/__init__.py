"""Compare ways of adapting a language model to a task, on the same task, base, examples and budget."""

__version__ = "0.1.0"
