"""What outlives a socket: sessions and their entries."""
