"""Making networks smaller: which channels are coupled, which matter least, and how many can be removed."""
