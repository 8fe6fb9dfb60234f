"""What a strategy would have done on a recorded stream: the loop's own steps, stores in memory, a manual clock."""
