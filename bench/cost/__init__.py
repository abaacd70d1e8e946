"""What a strategy uses: meters (time, memory, energy) and the FLOP formulas."""
