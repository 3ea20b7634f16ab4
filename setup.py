"""The packages of the wheel: found ones and moved ones, which pyproject.toml cannot name together."""

from setuptools import find_packages, setup

SHIPPED = ("recipes", "search_spaces")
"""Folders of YAML files that lie beside the package in the repository and inside it once it is installed."""

setup(
    packages=[*find_packages(include=["compress", "compress.*"]), *(f"compress.{folder}" for folder in SHIPPED)],
    package_dir={f"compress.{folder}": folder for folder in SHIPPED},
)
