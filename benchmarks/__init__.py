"""The measurements behind the README's figures; each is run as a module."""
