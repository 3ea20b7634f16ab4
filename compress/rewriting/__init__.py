"""Operator replacement: what can be replaced by what, where, and with which weights it starts."""
