"""Pictures with labelled persons, and the way from a picture to a training batch."""
