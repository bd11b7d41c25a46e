"""`make report`: what the last `make verify` found, as one page for people and one file for machines."""
