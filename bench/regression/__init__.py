"""Regression tracking: is any strategy worse than it was, and is that more than noise? From records alone, but for what runs them anew."""
