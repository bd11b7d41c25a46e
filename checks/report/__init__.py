"""`make report`: the results of the last `make verify`, as one page for people and one file for machines."""
