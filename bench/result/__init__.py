"""Records, tables and statistics. Nothing here loads a model."""
