"""Component resources: one noun a file. They know no module numbers and read no config."""
