"""What is written for people to read and decide by, from records alone."""
