"""The trained model that tinymoe ships, and (in `recipe/`) everything that made it."""
