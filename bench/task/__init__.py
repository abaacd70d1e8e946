"""A task: what is asked, which answers are right, and what strategies may read or train on."""
