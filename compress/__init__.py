"""compress: makes human-pose networks fast on the device they must run on."""

__version__ = "0.1.0"
