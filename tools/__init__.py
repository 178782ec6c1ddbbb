"""Programs that make or check committed files; nothing here is installed with the package."""
