"""A base model: where it is, what identifies it, how it is prompted and how it answers."""
