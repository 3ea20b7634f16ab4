"""Making networks smaller: which channels hang together, which matter least, and how many may go."""
