"""The version, in one place: nothing that needs it has to import the package's face."""

__version__ = "0.1.0"
