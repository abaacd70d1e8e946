"""A strategy is three choices: what the model is told, what it is handed to read, and which weights move."""
