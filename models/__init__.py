"""The models that the product is shipped with, and the recipes they are built by."""
