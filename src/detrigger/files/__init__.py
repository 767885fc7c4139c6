"""What files are and hold, told from their bytes. Nothing of them is ever run, and torch is not needed."""
